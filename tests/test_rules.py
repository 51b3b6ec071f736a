"""Tests of the rules: the contract that each keeps, and what each says about captures whose truth is known."""

import importlib
import math
import random
import re
from dataclasses import replace

import builders
import pytest
from builders import block

from perfdoc.capture.document import Capture
from perfdoc.capture.records import Estimate, Parity
from perfdoc.capture.run import Experiment
from perfdoc.core.measurement import UNITS, Measurement, Unavailable
from perfdoc.core.metrics import DERIVED
from perfdoc.core.probe import Probe
from perfdoc.core.registry import discover, packages
from perfdoc.core.registry import names as slugs
from perfdoc.core.treatment import Treatment, config_from_id
from perfdoc.diagnosis.diagnose import diagnose
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import SECTIONS, discover_rules
from perfdoc.report import everything, summary
from perfdoc.report.model import build

RULES = discover_rules()
CODES = [rule.code for rule in RULES]
CHANGES = {
    "dataloader_workers": "num_workers={}", "cpu_threads": "torch.set_num_threads({})", "autocast": "autocast {}",
    "channels_last": "channels_last", "compute_ceiling": "one cached batch",
}  # others are called by their slug
CORES = {"cpu_threads": "computing", "dataloader_workers": "loading"}


def offers_of(arms, status="offered", reason=""):
    """Offers of all treatments and levels that occur in ``arms``."""
    levels = {}
    for arm in arms:
        for slug, level in config_from_id(arm).items():
            levels.setdefault(slug, {})[level] = CHANGES.get(slug, slug + "={}").format(level)
    return [
        builders.offer(slug, *found.items(), title=f"title of {slug}", status=status, reason=reason,
                       role="ceiling" if slug == "compute_ceiling" else "change", cores=CORES.get(slug, ""))
        for slug, found in levels.items()
    ]


def blocks_of(arms, rounds=10, noise=0.004, aa=1.0):
    """Blocks of an experiment in which every arm has the given speed-up, the step of 0.1 s being the control's."""
    rng = random.Random(7)
    truth = {"A/A": aa, **arms}
    blocks = []

    def add(arm, speedup):
        seconds = 0.4 * math.exp(rng.gauss(0, noise)) / speedup
        blocks.append(block(len(blocks), arm, seconds, 4))

    for _ in range(rounds):
        for arm, speedup in truth.items():
            add("control", 1.0)
            add(arm, speedup)
    add("control", 1.0)
    return blocks


def make(
    arms=None, *, workers=0, persistent=False, epoch=100, measurements=(), failed=None, plan=None, offers=None,
    verdicts=None, **how,
):
    """A synthetic capture: ``arms`` maps config ids to true speed-ups; the loader has ``workers`` workers."""
    arms = arms or {}
    loader = builders.loader(num_workers=workers, persistent_workers=persistent, batches_an_epoch=epoch)
    loop = builders.loop(loaders=[loader])
    own = [
        Measurement("step.time", "s", (0.1,) * 5), Measurement("step.data", "s", (0.03,) * 5),
        Measurement("loader.num_workers", "count", (float(workers),)),
        Measurement("loader.batches_an_epoch", "count", (float(epoch),)),
    ]
    return Capture(
        run=builders.run(), loop=loop, offers=offers_of(arms) if offers is None else offers, measurements=[*own, *measurements],
        blocks=blocks_of(arms, **how),
        experiment=Experiment(plan or {}, verdicts or {}, failed or {}, "settled"),
    )


def findings(capture):
    """What the rules find in a capture, by code."""
    return {finding.code: finding for finding in diagnose(capture).findings}


# -- the contract


def test_codes_and_slugs_are_unique():
    """No two rules share a code or a slug."""
    assert len(set(CODES)) == len(CODES)
    assert len({rule.slug for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=CODES)
def test_a_rule_is_documented(rule):
    """Every rule has a code, a file named like its slug, a summary line and all sections in order, none empty."""
    assert rule.code.startswith("PD")
    assert rule.code[2:].isdigit()
    assert type(rule).__module__.rsplit(".", 1)[1] == rule.slug.replace("-", "_")
    sections = rule.sections()
    assert list(sections) == ["", *SECTIONS]
    assert all(sections.values())
    assert "\n" not in sections[""]


@pytest.fixture(scope="module")
def parts():
    """All probes and all treatments (imports torch)."""
    return discover(Probe, packages()), discover(Treatment, packages())


def test_every_needed_metric_has_one_provider(parts):
    """What rules need comes from the capture itself, from one probe, or is one treatment's speed-up."""
    probes, treatments = parts
    provided = [*DERIVED, *(metric for probe in probes for metric in probe.provides)]
    provided += [f"{treatment.slug}.speedup" for treatment in treatments]
    for rule in RULES:
        assert rule.needs, rule.code
        for metric in rule.needs:
            assert provided.count(metric) == 1, f"{rule.code} needs {metric}"


def test_units_are_known(parts):
    """Every metric that is provided anywhere has one of the known units."""
    probes, _ = parts
    assert set(DERIVED.values()) <= UNITS
    for probe in probes:
        assert probe.provides
        assert set(probe.provides.values()) <= UNITS


def test_a_slug_is_its_modules_name(parts):
    """Probes and treatments are called like their files, which is how the command line knows them without torch."""
    probes, treatments = parts
    for part in [*probes, *treatments]:
        assert type(part).__module__.rsplit(".", 1)[1] == part.slug
    assert slugs(packages()) == {part.slug for part in [*probes, *treatments]}


def test_interactions_name_treatments(parts):
    """A treatment interacts only with treatments that there are, and never with itself."""
    _, treatments = parts
    known = {treatment.slug for treatment in treatments}
    for treatment in treatments:
        assert treatment.title
        assert set(treatment.interacts) <= known - {treatment.slug}


def test_probe_files_hold_nothing_that_is_unknown(parts):
    """Every module among the probes defines a probe or a treatment."""
    probes, treatments = parts
    used = {type(part).__module__ for part in [*probes, *treatments]}
    for package in packages():
        for name in slugs([package]):
            assert importlib.import_module(f"{package}.{name}").__name__ in used


@pytest.mark.parametrize("rule", RULES, ids=CODES)
def test_a_rule_is_silent_about_an_empty_capture(rule):
    """Where nothing was measured no rule has anything to say, and none fails."""
    assert rule.check(Evidence(Capture(run=builders.run(command=[])))) is None


# -- what the rules say


@pytest.mark.parametrize(("speedup", "verdict"), [(1.3, "helps"), (0.8, "hurts"), (1.0, "no difference")])
@pytest.mark.parametrize(
    ("code", "arm", "workers"),
    [("PD101", "dataloader_workers=2", 0), ("PD102", "dataloader_workers=2", 1), ("PD103", "dataloader_workers=0", 2),
     ("PD301", "autocast=bf16", 0), ("PD303", "channels_last=on", 0), ("PD317", "cpu_threads=1", 0)],
)
def test_a_treatments_rule_says_what_was_measured(code, arm, workers, speedup, verdict):
    """A clear effect of either sign, and none, give the verdict that the truth is, with an interval around it."""
    capture = make({arm: speedup}, workers=workers)
    found = findings(capture)[code]
    assert found.verdict == verdict
    assert found.effect.low <= speedup <= found.effect.high
    assert found.effect.how == "measured in your loop"
    assert found.arms == (arm,)
    assert Evidence(capture).change(arm) in found.fix


@pytest.mark.parametrize("code", ["PD101", "PD102", "PD103", "PD301", "PD303", "PD317"])
def test_a_treatments_rule_is_silent_where_nothing_was_tried(code):
    """Without arms or offers there is no finding about any treatment."""
    assert code not in findings(make({}, workers=1))
    assert code not in findings(make({}, workers=0))


def test_the_synchronous_loader_has_no_workers():
    """PD101 speaks of loops without workers only, names the place, and says how long the step waits."""
    arms = {"dataloader_workers=2": 1.3, "cpu_threads=1+dataloader_workers=2": 1.1}
    found = findings(make(arms, workers=0))["PD101"]
    assert found.where == "train.py:9"
    assert any("30 ms of 100 ms" in line for line in found.evidence)
    assert "PD101" not in findings(make(arms, workers=1))
    assert "PD101" not in findings(make(arms, workers=4))


def test_the_synchronous_loader_picks_the_best_arm():
    """Of several counts of workers the one that helps most is the advice, together with threads where that is best."""
    arms = {"dataloader_workers=1": 1.1, "dataloader_workers=2": 0.9, "cpu_threads=1+dataloader_workers=2": 1.4,
            "cpu_threads=1": 1.0}
    found = findings(make(arms))["PD101"]
    assert found.arms == ("cpu_threads=1+dataloader_workers=2",)
    assert "num_workers=2" in found.fix
    assert "set_num_threads(1)" in found.fix


def test_more_and_fewer_workers_are_two_questions():
    """With workers in use PD102 speaks of more of them and PD103 of fewer."""
    arms = {"dataloader_workers=0": 1.2, "dataloader_workers=1": 0.9, "dataloader_workers=4": 1.3}
    found = findings(make(arms, workers=2))
    assert found["PD102"].arms == ("dataloader_workers=4",)
    assert found["PD103"].arms == ("dataloader_workers=0",)
    assert {"PD102", "PD103"}.isdisjoint(findings(make({"dataloader_workers=2": 1.3}, workers=0)))
    assert "PD102" not in findings(make({"dataloader_workers=0": 1.2}, workers=2))
    assert "PD103" not in findings(make({"dataloader_workers=4": 1.2}, workers=2))


def test_more_workers_than_batches():
    """PD103 says when an epoch has fewer batches than there are workers."""
    found = findings(make({"dataloader_workers=1": 1.0}, workers=8, epoch=3))["PD103"]
    assert any("3 batches" in line for line in found.evidence)


def turnover(respawned, persistent):
    """Measured turns of an epoch with two workers, in seconds."""
    return [
        Measurement("loader.turnover", "s", tuple(times), {"workers": 2, "kind": kind})
        for kind, times in (("respawned", respawned), ("persistent", persistent))
    ]


def test_respawned_workers_cost_short_epochs():
    """PD105 helps where turns take a good part of the epoch, and saves the difference over its steps."""
    found = findings(make(workers=2, epoch=10, measurements=turnover([0.5, 0.6, 0.55, 0.52], [0.01] * 4)))["PD105"]
    assert found.verdict == "helps"
    assert found.effect.speedup == pytest.approx((1.0 + 0.5425) / 1.01, rel=0.02)
    assert 0.04 < found.seconds_saved_a_step < 0.055


def test_respawned_workers_do_not_matter_in_long_epochs():
    """The same turns in an epoch of many steps make no difference."""
    capture = make(workers=2, epoch=10_000, measurements=turnover([0.5, 0.6, 0.55, 0.52], [0.01] * 4))
    assert findings(capture)["PD105"].verdict == "no difference"


def test_one_turn_of_each_kind_has_no_interval():
    """PD105 says what was seen, and claims nothing: [6.88, 6.88] would be an interval that says nothing."""
    once = findings(make(workers=2, epoch=10, measurements=turnover([0.5], [0.01])))["PD105"]
    assert (once.verdict, once.effect, once.seconds_saved_a_step) == ("undecided", None, 0.0)
    assert once.evidence == ("epoch of 10 steps; 1 turn of each kind: too few for an interval",)


def test_persistent_workers_are_not_advised_to_those_who_have_them():
    """PD105 is silent with persistent workers, and where turns could not be measured."""
    turns = turnover([0.5] * 4, [0.01] * 4)
    assert "PD105" not in findings(make(workers=2, persistent=True, measurements=turns))
    assert "PD105" not in findings(make(workers=0, measurements=[Unavailable("loader.turnover", "no workers")]))


def load(other, steal=0.0, cores=2.0):
    """The parent's look at the machine: mean cores taken by others and by the hypervisor."""
    return [Measurement("machine.other_cpu", "1", (other - 0.01, other + 0.01)),
            Measurement("machine.steal", "1", (steal, steal)), Measurement("machine.cores", "1", (cores,))]


@pytest.mark.parametrize(("loader", "pixels", "told"), [
    (0.08, 12e6, "CPU: decoding, 100% of a sample's 40 ms, most of all PIL (decode). 12 million pixels are decoded"),
    (0.08, 0.2e6, "making a sample: CPU: decoding"),
    (0.01, 12e6, None),
])
def test_what_makes_samples_slow_is_told_where_the_loader_is(loader, pixels, told):
    """Decoding is named by what the loader takes alone, however short the wait for it is; not where the loader is fast."""
    capture = make({"autocast=bf16": 1.0}, measurements=[
        Measurement("loader.ceiling", "s", (loader,) * 4), Measurement("sample.time", "s", (0.04,) * 8),
        Measurement("sample.part", "s", (0.04,) * 8, {"part": "decode", "name": "PIL"}),
        Measurement("sample.decoded_pixels", "count", (pixels,) * 8), Measurement("sample.used_pixels", "count", (0.05e6,) * 8),
    ])
    said = " ".join(everything.render(build(diagnose(capture)), 100).split())
    assert told in said if told else "making a sample" not in said
    assert ("pixels are decoded" in said) == (pixels > 1e6 and told is not None)


def test_what_was_tried_in_stacks_only_is_estimated():
    """A change without blocks of its own is told with the stacks' estimate beside the plan, undecided; known ones are not."""
    capture = make({"autocast=bf16": 1.3, "channels_last=on": 1.0}, plan={"autocast": "bf16"},
                   offers=offers_of(["autocast=bf16", "channels_last=on", "optimizer_implementation=fused", "cpu_threads=1"]))
    capture.experiment.estimates = {
        "autocast=bf16": Estimate(center=0.2, deviation=0.0001, blocks=30),
        "optimizer_implementation=fused": Estimate(center=math.log(1.05), deviation=0.01, blocks=5),
    }
    diagnosis = diagnose(capture)
    found = {finding.code: finding for finding in diagnosis.findings}
    assert found["PD306"].verdict == "undecided"
    assert "beside the plan 1.05x [1.03, 1.07], estimated from 5 blocks" in found["PD306"].title
    assert "the budget did not reach it" in found["PD317"].title
    assert "estimated" not in " ".join([found["PD301"].title, *found["PD301"].evidence])
    ((arm, effect),) = summary.estimates(diagnosis)
    assert (arm.arm, effect.how, effect.pairs) == ("optimizer_implementation=fused", "estimated from stacks", 5)
    assert "fused" not in summary.unreached(diagnosis)
    said = everything.render(build(diagnosis), 100)
    assert "tried in stacks, hardly alone: the effect of each beside the rest of the plan" in said
    assert "1.05x [1.03, 1.07]" in said


def test_page_faults_that_a_plan_does_not_take_in_the_scan_are_expected_of_the_changed_script():
    """A control that faults where the plan does not: a quarter of that, on the CPU, unless loading moves to workers."""
    def unseen(arm, own=0, device="cpu", workers=0):
        capture = make({arm: 1.5}, workers=workers,
                       measurements=[Measurement("machine.page_fault", "s", (2e-6, 2e-6, 2e-6))])
        capture.loop.device = device
        # four steps of 0.1 s
        capture.blocks = [replace(b, faults=own if b.arm == arm else 20_000) for b in capture.blocks]
        return Evidence(capture).unseen_faults(arm)

    assert unseen("autocast=bf16") == pytest.approx(0.25 * 20_000 * 2e-6 / 0.4, rel=0.02)
    assert unseen("autocast=bf16", own=2_500) == pytest.approx(0.125 * 20_000 * 2e-6 / 0.4, rel=0.05)
    assert unseen("autocast=bf16", own=9_000) == 0.0
    assert unseen("autocast=bf16", device="cuda") == 0.0
    assert unseen("autocast=bf16+dataloader_workers=2") == 0.0
    assert unseen("autocast=bf16+dataloader_workers=2", workers=1) > 0.0
    assert Evidence(make({"autocast=bf16": 1.5})).unseen_faults("autocast=bf16") == 0.0  # they were not counted


def test_memory_that_goes_back_to_the_system_is_said():
    """PD316 fires where the control's steps take many page faults a second on the CPU, with the command that tries the cure."""
    def found(faults, device="cpu", arm="control"):
        capture = make({"autocast=bf16": 1.2}, measurements=[Measurement("machine.page_fault", "s", (1.9e-6, 2e-6, 9e-6))])
        capture.loop.device = device
        capture.blocks = [replace(b, faults=faults if b.arm == arm else 0) for b in capture.blocks]
        return findings(capture).get("PD316")

    said = found(40_000)
    assert "page faults a step (39 MiB), about 20% of it" in said.title
    assert "perfdoc verify --env MALLOC_TRIM_THRESHOLD_=" in said.title
    assert said.effect is None
    assert found(400) is None
    assert found(40_000, device="cuda") is None
    assert found(40_000, arm="autocast=bf16") is None
    assert "PD316" not in findings(make())  # a capture from before they were counted


def test_a_busy_machine_is_said():
    """PD703 fires when others or the hypervisor take a tenth of the cores, and not on a quiet machine."""
    assert "PD703" in findings(make(measurements=load(0.5)))
    assert "PD703" in findings(make(measurements=load(0.02, steal=0.4)))
    assert "PD703" not in findings(make(measurements=load(0.05)))
    assert "PD703" not in findings(make(measurements=load(0.5, cores=64.0)))
    assert "PD703" not in findings(make())


@pytest.mark.parametrize("status", ["already on", "not applicable"])
def test_what_is_on_already_is_no_finding(status):
    """A treatment that is in use or does not apply is not spoken of."""
    offers = offers_of(["autocast=bf16"], status, "why") + offers_of(["channels_last=on"], status, "why")
    assert {"PD301", "PD303"}.isdisjoint(findings(make(offers=[replace(offer, levels=[]) for offer in offers])))


def test_what_cannot_be_tried_says_why():
    """A treatment that is untestable here is a finding with the reason, without figures."""
    offers = [replace(offer, levels=[]) for offer in offers_of(["autocast=bf16"], "untestable here", "needs a newer CPU")]
    found = findings(make(offers=offers))["PD301"]
    assert (found.verdict, found.effect) == ("untestable here", None)
    assert "needs a newer CPU" in found.fix


def test_an_arm_that_failed_in_the_loop_is_untestable():
    """A treatment whose arm raised in the user's step is not judged, and the error is said."""
    capture = make({"autocast=bf16": 1.3}, failed={"autocast=bf16": "RuntimeError: no bf16 here"})
    found = findings(capture)["PD301"]
    assert found.verdict == "untestable here"
    assert "no bf16 here" in found.title


def test_an_arm_the_budget_did_not_reach_is_undecided():
    """An arm that was offered and has no blocks is undecided, without an invented effect."""
    found = findings(make({}, offers=offers_of(["autocast=bf16"])))["PD301"]
    assert (found.verdict, found.effect) == ("undecided", None)


def test_a_noisy_arm_says_how_many_blocks_would_settle_it():
    """Where few noisy pairs leave a question open, the finding says about how many more it takes."""
    found = findings(make({"autocast=bf16": 1.08}, rounds=5, noise=0.02))["PD301"]
    assert found.verdict == "undecided"
    assert found.blocks_to_settle >= 1


def test_what_the_experiment_settled_stays_settled():
    """A verdict at which an arm's blocks stopped is reported, unless the blocks contradict it."""
    arms = {"autocast=bf16": 1.08}
    assert Evidence(make(arms, rounds=5, noise=0.02)).verdict("autocast=bf16") == "undecided"
    kept = Evidence(make(arms, rounds=5, noise=0.02, verdicts={"autocast=bf16": "helps"}))
    assert kept.verdict("autocast=bf16") == "helps"
    contradicted = Evidence(make({"autocast=bf16": 0.8}, verdicts={"autocast=bf16": "helps"}))
    assert contradicted.verdict("autocast=bf16") != "helps"


TRIED = {"dataloader_workers=2": 1.5, "autocast=bf16": 1.4, "channels_last=on": 0.7, "cpu_threads=1": 1.0}


@pytest.mark.parametrize("how", [{"aa": 1.1}, {"aa": 0.9}, {"rounds": 3}, {"noise": 1.5}],
                         ids=["A/A faster", "A/A slower", "A/A too short", "too noisy"])
def test_verdicts_are_withheld_when_the_control_differs_from_itself(how):
    """With a control that is not like itself, or not known to be, no arm gets a verdict and no plan is made."""
    diagnosis = diagnose(make(TRIED, plan={"autocast": "bf16"}, measurements=turnover([0.5] * 4, [0.01] * 4), **how))
    assert diagnosis.seen.withheld
    assert diagnosis.plan is None
    assert {finding.verdict for finding in diagnosis.findings} == {"withheld"}


def test_a_noisy_control_leaves_what_is_larger_than_its_noise():
    """Where the control is only known to a third, a factor of two is claimed, and nothing is called no difference."""
    seen = Evidence(make({"autocast=bf16": 2.4, "cpu_threads=1": 1.0}, noise=0.25))
    assert seen.is_coarse
    assert seen.withheld == ""
    assert seen.verdict("autocast=bf16") == "helps"
    assert seen.verdict("cpu_threads=1") == "undecided"


@pytest.mark.parametrize(
    ("noise", "confirmed", "claimed"), [(0.4, 1.1, False), (0.4, 2.0, True), (0.05, 1.05, False), (0.05, 1.15, True)])
def test_a_plan_within_the_controls_own_noise_is_not_claimed(noise, confirmed, claimed):
    """However well its own blocks agree: what the control may differ from itself by is no plan, noisy or quiet."""
    capture = make({"autocast=bf16": 2.4}, noise=noise, plan={"autocast": "bf16"})
    more = [b for b in blocks_of({"autocast=bf16": confirmed}, noise=0.02) if b.arm != "A/A"]
    capture.blocks.extend(replace(b, i=b.i + 1000, phase="confirm") for b in more)
    found = diagnose(capture)
    assert found.plan.effect.low > 1
    assert ("the control against itself" in found.plan.note) is not claimed
    assert (found.plan.expected is not None) is claimed
    assert ("faster, measured in your loop" in summary.headline(found)) is claimed
    assert ("differ from themselves" in summary.headline(found)) is not claimed


def test_a_quiet_control_withholds_nothing():
    """With a control like itself every arm gets its verdict."""
    diagnosis = diagnose(make(TRIED))
    assert diagnosis.seen.withheld == ""
    assert {finding.code: finding.verdict for finding in diagnosis.findings} == {
        "PD101": "helps", "PD301": "helps", "PD303": "hurts", "PD317": "no difference"
    }


def test_findings_are_ranked_by_the_time_they_save():
    """What helps comes first, the larger saving before the smaller one, what hurts last."""
    order = [finding.code for finding in diagnose(make(TRIED)).findings]
    assert order == ["PD101", "PD301", "PD317", "PD303"]


def test_the_machines_resolution_raises_the_smallest_effect():
    """Where A/A is only known to 5%, an effect of 3% is not judged as if 2% could be seen."""
    seen = Evidence(make({"autocast=bf16": 1.03}, noise=0.03))
    assert seen.withheld == ""
    assert seen.smallest_effect == seen.resolution > 0.02
    assert seen.verdict("autocast=bf16") in ("no difference", "undecided")


def test_a_ceiling_is_no_arm():
    """The arm that only explains is measured, but is never among the arms or the findings."""
    capture = make({"compute_ceiling=on": 3.0, "autocast=bf16": 1.0})
    assert Evidence(capture).arms == ["autocast=bf16"]
    assert Evidence(capture).effect("compute_ceiling=on").speedup == pytest.approx(3.0, rel=0.02)
    assert all("compute_ceiling=on" not in finding.arms for finding in diagnose(capture).findings)


def test_a_plan_is_only_as_good_as_its_confirmation():
    """A plan without confirm blocks has no figure; with them it has the one of those blocks alone."""
    capture = make({"autocast=bf16": 1.4}, plan={"autocast": "bf16"})
    plan = diagnose(capture).plan
    assert (plan.effect, plan.changes) == (None, ("autocast bf16",))
    assert "--budget" in plan.note
    more = [replace(b, i=b.i + 1000, phase="confirm") for b in blocks_of({"autocast=bf16": 1.2})]
    confirmed = diagnose(make({"autocast=bf16": 1.4}, plan={"autocast": "bf16"}))
    confirmed.capture.blocks.extend(more)
    assert diagnose(confirmed.capture).plan.effect.speedup == pytest.approx(1.2, rel=0.01)


def test_a_single_change_that_could_not_be_confirmed_has_the_effect_of_its_trial():
    """Where the budget ends before the confirmation, a change that helped alone has its own interval and the way on."""
    capture = make({"autocast=bf16": 1.4}, plan={"autocast": "bf16"})
    capture.experiment.verdicts = {"autocast=bf16": "helps"}
    capture.run.budget = 120
    capture.experiment.reason = "budget spent"
    found = diagnose(capture)
    assert found.plan.tried.speedup == pytest.approx(1.4, rel=0.02)
    assert "that needs at least --budget" in found.plan.note
    assert "faster when it was tried" in summary.headline(found)


def test_what_the_budget_did_not_reach_is_one_sentence():
    """Changes without a block are no rows of dashes: they are named together, with a budget that would hold them."""
    capture = make({"autocast=bf16": 1.4})
    capture.run.budget = 120
    capture.experiment.reason = "budget spent"
    capture.offers.append(builders.offer("channels_last", ("on", "model.to(memory_format=torch.channels_last)")))
    said = summary.unreached(diagnose(capture))
    assert said.startswith("too few blocks for: model.to(memory_format=torch.channels_last). A step takes")
    assert re.search(r"one change needs at least --budget \d{3,}\.", said)


def test_no_budget_is_named_where_something_else_ended_the_scan():
    """A scan that was stopped, or whose script ended, says what it did not measure, and not that a budget would help."""
    capture = make({"autocast=bf16": 1.4}, rounds=2)
    capture.run.budget = 120
    capture.experiment.reason = "stopped"
    found = diagnose(capture)
    assert "--budget" not in found.seen.withheld + summary.unreached(found)


def test_a_stack_that_was_chosen_is_not_told_by_what_chose_it():
    """The blocks by which the search picked a stack overstate it: unconfirmed, it has no figure."""
    capture = make({"autocast=bf16+channels_last=on": 1.4}, plan={"autocast": "bf16", "channels_last": "on"})
    assert diagnose(capture).plan.tried is None


def memory(peak, activations, arm="control"):
    """A watched step's peak in bytes, and how much of it are activations."""
    return [Measurement("memory.peak", "B", (float(peak),), {"arm": arm}),
            Measurement("memory.activations", "B", (float(activations),), {"arm": arm})]


@pytest.mark.parametrize(("after", "words"), [(600, "0.60x as large"), (990, "saves nothing of its peak memory, of which")])
def test_checkpointing_is_a_trade(after, words):
    """PD402 says what the step pays and what the peak gains, and says so where it gains nothing."""
    arm = "activation_checkpointing=blocks"
    found = findings(make({arm: 0.8}, measurements=[*memory(1000, 900), *memory(after, 500, arm)]))["PD402"]
    assert found.verdict == "hurts"
    assert words in found.title
    assert "1.25x as long" in found.title


def test_checkpointing_tells_memory_and_time_of_every_choice():
    """PD402 speaks of the choice that costs least time, and has figures of the other one."""
    whole, half = "activation_checkpointing=blocks", "activation_checkpointing=half"
    measured = [*memory(1000, 900), *memory(400, 300, whole), *memory(700, 600, half)]
    found = findings(make({whole: 0.8, half: 0.9}, measurements=measured))["PD402"]
    assert "every second block makes the step take 1.11x as long and its peak memory 0.70x as large" in found.title
    told = [line for line in found.evidence if line.startswith("memory ")]
    assert len(told) == len(set(told)) == 3
    assert any("0.80x" in line for line in found.evidence)


def test_a_first_switch_that_takes_long_is_repaid_later():
    """PD305 says how long compilation took and when it is repaid, and counts graph breaks and recompilations."""
    capture = make({"compiled_model=default": 1.25}, measurements=[
        Measurement("compile.graphs", "count", (3.0,)), Measurement("compile.graph_breaks", "count", (2.0,)),
        Measurement("compile.recompiles", "count", (4.0,), {"reason": "size mismatch at index 0"}),
    ])
    place = next(i for i, b in enumerate(capture.blocks) if b.arm == "compiled_model=default")
    capture.blocks[place] = replace(capture.blocks[place], warmup=[30.0, 0.08], switch=0.0)
    found = findings(capture)["PD305"]
    assert found.verdict == "helps"
    assert any("2 graph breaks" in line for line in found.evidence)
    assert "recompiled 4 times, the last time because of size mismatch at index 0" in found.evidence
    (line,) = [line for line in found.evidence if "repaid after" in line]
    steps = int(line.split("repaid after ")[1].split()[0])
    assert 30 / 0.02 * 0.9 < steps < 30 / 0.02 * 1.1


def numbers(arm, factor):
    """A comparison of losses in which the arm's are ``factor`` times the control's."""
    control = [1.0 - 0.02 * step for step in range(10)]
    return Parity(arm=arm, losses=[factor * loss for loss in control], control=control, again=control,
                  others=[[loss + 0.03 for loss in control]], gradient_error=abs(factor - 1), gradient_cosine=0.9999,
                  gradient_noise=0.0)


@pytest.mark.parametrize(("factor", "said"), [(1.0, "same numbers"), (1.004, "rounding"), (1.4, "changes training")])
def test_a_finding_says_what_it_does_to_the_numbers(factor, said):
    """What helps carries the verdict on its numbers, with the figures among its evidence."""
    capture = make({"autocast=bf16": 1.4})
    capture.offers[0].numerics = True
    capture.parity.append(numbers("autocast=bf16", factor))
    found = findings(capture)["PD301"]
    assert found.numerics == said
    assert any(line.startswith(f"numbers: {said}") for line in found.evidence)


def test_numbers_that_were_not_compared_are_said_to_be_unchecked():
    """A treatment that touches the numbers and was not compared is 'not checked'; one that does not is not spoken of."""
    capture = make({"autocast=bf16": 1.4, "dataloader_workers=2": 1.3})
    capture.offers[0].numerics = True
    found = findings(capture)
    assert found["PD301"].numerics == "not checked"
    assert found["PD101"].numerics == ""


def syncs(device, **places):
    return [Measurement("sync.places", "count", (float(times),), {"site": f"train.py:{line[1:]}", "call": ".item()",
                                                                   "device": device}) for line, times in places.items()]


def test_syncs_are_untestable_on_a_cpu_and_unmeasured_on_a_gpu():
    """PD201 names the places, most frequent first; it never claims an effect that was not measured."""
    on_cpu = findings(make(measurements=syncs("cpu", _20=1, _30=3)))["PD201"]
    assert (on_cpu.verdict, on_cpu.where) == ("untestable here", "train.py:30")
    assert "4 times a step, at 2 places" in on_cpu.title
    on_gpu = findings(make(measurements=syncs("cuda", _20=1)))["PD201"]
    assert (on_gpu.verdict, on_gpu.effect) == ("undecided", None)
    assert "PD201" not in findings(make(measurements=[Measurement("sync.places", "count", (0.0,))]))


def test_larger_batches_speak_of_samples():
    """PD401 is about samples a second, is never planned, and tells to adapt the learning rate."""
    capture = make({"batch_size=x2": 1.3})
    capture.offers[0].role = "trade_off"
    diagnosis = diagnose(capture)
    (found,) = [f for f in diagnosis.findings if f.code == "PD401"]
    assert "1.30x as many samples a second" in found.title
    assert any("learning rate" in line for line in found.evidence)
    assert diagnosis.plan is None


def test_a_graph_that_does_not_grow_is_no_finding():
    """PD404 needs growth from one end of the step to the other."""
    assert "PD404" not in findings(make(measurements=[Measurement("graph.nodes", "count", (40.0, 40.0))]))
    assert findings(make(measurements=[Measurement("graph.nodes", "count", (40.0, 52.0))]))["PD404"].verdict == "hurts"


def throttled(*samples):
    return [Measurement("gpu.throttled", "1", samples, {"gpu": 0, "name": "H100", "reasons": "heat (hardware)"}),
            Measurement("gpu.clock", "1/s", (1.4e9, 1.1e9), {"gpu": 0, "name": "H100"})]


def test_a_throttled_gpu_is_said():
    """PD701 names the GPU, how often and why, where the loop is on a GPU; one sample in many is no finding."""
    capture = make(measurements=throttled(1.0, 1.0, 0.0, 0.0))
    assert "PD701" not in findings(capture)
    capture.loop.device = "cuda"
    found = findings(capture)["PD701"]
    assert "GPU 0 was slowed down in 50% of the samples: heat (hardware)" in found.title
    assert "clock: 1100 to 1400 MHz" in found.evidence
    rare = make(measurements=throttled(*[0.0] * 19, 1.0))
    rare.loop.device = "cuda"
    assert "PD701" not in findings(rare)


# -- rules that have nothing useful to say


def aligned(low, high):
    """A layer that was padded in isolation; seconds of a step of 0.1 s that it saved."""
    samples = tuple(low + (high - low) * n / 5 for n in range(6))
    return Measurement("alignment.saved", "s", samples, {"layer": "head", "padded": 104, "shape": "512 x 101", "rows": 64})


@pytest.mark.parametrize(("low", "high"), [(-0.0821, -0.0705), (-0.01, 0.02), (1e-6, 3e-6), (0.0005, 0.0012)],
                         ids=["costs time", "either", "microseconds", "a hundredth"])
def test_padding_that_saves_nothing_is_not_spoken_of(low, high):
    """PD311 is silent where the padded layer is slower, where nobody knows, and where it would not be felt."""
    assert "PD311" not in findings(make({"autocast=bf16": 1.0}, measurements=[aligned(low, high)]))
    assert "PD311" in findings(make({"autocast=bf16": 1.0}, measurements=[aligned(0.02, 0.03)]))


def sampled(seconds, transform):
    """A sample of so many seconds, of which one transform takes the given part."""
    part = {"part": "transform", "name": "Flip"}
    return [Measurement("sample.time", "s", (seconds,) * 8), Measurement("sample.part", "s", (transform,) * 8, part)]


def test_a_transform_of_microseconds_is_not_spoken_of():
    """PD109 and PD113 are silent where all samples of a step together take less than a fiftieth of it."""
    copied = {"site": "train.py:12"}
    for seconds, said in ((3e-5, False), (5e-3, True)):
        found = findings(make(measurements=[
            *sampled(2 * seconds, seconds), Measurement("sample.copied", "s", (seconds,) * 8, copied)]))
        assert ("PD113" in found, "PD109" in found) == (said, said), seconds


def test_a_transform_that_the_step_waits_for_may_be_the_answer():
    """Of 100 ms a step waits 30 for data: what one transform of a library's takes of it is told as a bound."""
    capture = make(measurements=sampled(4e-3, 3.6e-3))
    found = findings(capture)["PD109"]
    assert found.title.endswith("without it a step would be at most 1.4x faster")
    assert build(diagnose(capture)).answer[0].startswith("99.9 ms a step. Flip takes 3.6 ms of every sample")


def test_page_faults_of_some_blocks_are_not_the_allocators():
    """PD316 is silent where almost half of the blocks have next to no page faults: no environment variable helps there."""
    def said(quiet):
        capture = make(measurements=[Measurement("machine.page_fault", "s", (2e-6,) * 8)])
        capture.blocks = [replace(b, faults=0 if place % 9 < quiet else round(100_000 * b.seconds))
                          for place, b in enumerate(capture.blocks)]
        return "PD316" in findings(capture)

    assert said(0)
    assert not said(4)
