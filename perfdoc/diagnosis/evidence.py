"""What rules may look at: one capture, with the statistics derived from its raw samples."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from perfdoc.capture.document import Capture
from perfdoc.capture.records import Offer
from perfdoc.core import blocks as pairing
from perfdoc.core import numerics, stats
from perfdoc.core.blocks import AA_ARM, CONFIRM_PHASE, CONTROL_ARM, SEARCH_PHASE
from perfdoc.core.finding import WIDEST, Effect, Verdict
from perfdoc.core.measurement import Measurement
from perfdoc.core.treatment import Cores, config_from_id, config_id
from perfdoc.core.typed_json import to_json
from perfdoc.diagnosis import time_by_line
from perfdoc.diagnosis.prediction import NORMAL, UNSEEN, other_machine, predicted, spread, widening
from perfdoc.diagnosis.time_by_line import TimeByLine

COARSE_RESOLUTION = 0.25
"""A/A interval (as a share) beyond which nothing is called `no difference`: larger effects are claimed, the rest is open."""
WORST_RESOLUTION = 1.0
"""A/A interval (as a share) beyond which all verdicts are withheld: what is faster by a factor of two could not be told."""


class Evidence:
    """What a rule may look at: one capture, with the statistics derived from its raw samples."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture

    # -- measurements and settings

    def measurement(self, metric: str, **conditions: str | int | float) -> Measurement | None:
        """The measurement of ``metric`` under (at least) these conditions, or None where there is none."""
        for found in self.capture.measurements:
            if (
                isinstance(found, Measurement)
                and found.metric == metric
                and found.samples
                and all(found.conditions.get(key) == value for key, value in conditions.items())
            ):
                return found
        return None

    def measurements(self, metric: str) -> list[Measurement]:
        """All measurements of ``metric``, one for each of its conditions."""
        return [m for m in self.capture.measurements if isinstance(m, Measurement) and m.metric == metric and m.samples]

    @cached_property
    def lines(self) -> TimeByLine | None:
        """Where the time goes by line; None where no stacks were sampled."""
        free = self.free_loader
        free_step = self.step_seconds / free.high if free is not None and free.known else None
        return time_by_line.of(self.capture.loop, self.capture.lines, free_step)

    @property
    def loader_site(self) -> str:
        """``file:line`` of the loader the step fetches from, or an empty string."""
        loaders = self.capture.loop.loaders if self.capture.loop else []
        return loaders[0].site if loaders else ""

    @property
    def step_seconds(self) -> float:
        """Mean duration of a step under the user's own settings, over the medians of the control blocks, in seconds."""
        controls = [b.pace for b in self.capture.blocks if b.arm == CONTROL_ARM and b.count]
        if controls:
            return float(statistics.median(controls))
        step = self.measurement("step.time")
        return step.median if step else 0.0

    @property
    def samples_a_step(self) -> float:
        """Samples that are made for a step, one after the other: those of its batches, by each of the workers."""
        loaders = self.capture.loop.loaders if self.capture.loop else []
        if not loaders:
            return 1.0
        first = loaders[0]
        return float((first.batch_size or 1) * max(1, first.batches_a_step) / max(1, first.num_workers))

    def offer(self, slug: str) -> Offer | None:
        """What the treatment ``slug`` said it could do in this loop."""
        return next((offer for offer in self.capture.offers if offer.slug == slug), None)

    def change(self, arm: str) -> str:
        """An arm as the change a person would make: ``num_workers=2 and torch.set_num_threads(1)``."""
        parts = []
        for slug, level in config_from_id(arm).items():
            offer = self.offer(slug)
            parts.append((offer.change(level) if offer else None) or f"{slug}={level}")
        return " and ".join(parts)

    def level_of(self, cores: Cores, arm: str) -> str | None:
        """The level at which ``arm`` has the treatment that changes this use of the cores; None where it has none."""
        slugs = {offer.slug for offer in self.capture.offers if offer.cores == cores}
        return next((level for slug, level in config_from_id(arm).items() if slug in slugs), None)

    @property
    def free_loader(self) -> Effect | None:
        """What the step would be if its loader cost nothing (one cached batch), as a ceiling; None where it was not tried."""
        return next((effect for slug in sorted(self.ceilings) for name in dict.fromkeys(b.arm for b in self.capture.blocks)
                     if slug in config_from_id(name) and (effect := self.effect(name)) is not None), None)

    def samples_differ(self, arm: str) -> bool:
        """Whether the arm's steps process another number of samples: its effect is then one on samples a second."""
        return any(block.arm == arm and block.work != 1.0 for block in self.capture.blocks)

    # -- the experiment

    @cached_property
    def noise(self) -> float | None:
        """Variance between neighbouring control blocks, in log units."""
        return pairing.control_noise(self.capture.blocks)

    @cached_property
    def ceilings(self) -> frozenset[str]:
        """Slugs of treatments that only explain."""
        return frozenset(offer.slug for offer in self.capture.offers if offer.role == "ceiling")

    @cached_property
    def arms(self) -> list[str]:
        """Ids of all arms that were to be tried, without control, A/A and ceilings."""
        # Stacks that the search came by on its way to the plan are no answers to anybody's question.
        names = dict.fromkeys(
            str(block.arm) for block in self.capture.blocks if block.phase not in (SEARCH_PHASE, CONFIRM_PHASE)
        )
        for offer in self.capture.offers:
            for level, _ in offer.levels:
                names.setdefault(config_id({offer.slug: level}))
        return [
            name for name in names
            if name not in (CONTROL_ARM, AA_ARM) and not self.ceilings & set(config_from_id(name))
        ]

    def values(self, arm: str, confirm: bool = False) -> list[float]:
        """Paired log speed-ups of an arm: of all phases but confirming, or of confirming alone."""
        return pairing.arm_values(self._pairs, arm, confirm)

    def overlap(self, arm: str, confirm: bool = False) -> stats.Overlap:
        """What these pairs have in common, as they share control blocks."""
        return pairing.overlap(self._pairs, arm, confirm)

    @cached_property
    def _pairs(self) -> pairing.Pairs:
        return pairing.log_speedups(self.capture.blocks)

    def interval(self, arm: str, confirm: bool = False) -> stats.Interval | None:
        """The arm's 95% interval in log units; None below two pairs."""
        values = self.values(arm, confirm)
        return stats.interval(values, self.noise, overlap=self.overlap(arm, confirm)) if len(values) >= 2 else None

    def effect(self, arm: str, confirm: bool = False) -> Effect | None:
        """The arm's speed-up with its 95% interval; None below two pairs."""
        found = self.interval(arm, confirm)
        return Effect(*found.speedup, found.pairs) if found else None

    def estimate(self, arm: str) -> Effect | None:
        """What an open change does beside the rest of the plan, with its 95% interval; ``pairs``: blocks that it was part of.

        By the search's regression over all stacks (``inject/experiment/surrogate``). None where it says nothing, and where the
        change's own blocks say it better.
        """
        found = self.capture.experiment.estimates.get(arm)
        if found is None or self.verdict(arm) != "undecided":
            return None
        center, half = found.center, NORMAL * found.deviation
        alone = self.interval(arm)
        if alone is not None and (alone.high - alone.low) / 2 <= half:
            return None
        speedup, low, high = (stats.ratio_of(log) for log in (center, center - half, center + half))
        return Effect(speedup, low, high, found.blocks, "estimated from stacks")

    @cached_property
    def asked_effect(self) -> float:
        """The smallest effect of interest that was asked for, as a share."""
        return self.capture.run.smallest_effect

    @cached_property
    def resolution(self) -> float | None:
        """How far the A/A arm's interval reaches from no effect, as a share; None where it has too few pairs."""
        values = self.values(AA_ARM)
        if len(values) < stats.LOOKS[0]:
            return None
        found = stats.interval(values, self.noise, overlap=self.overlap(AA_ARM))
        return stats.ratio_of(max(abs(found.low), abs(found.high))) - 1

    @cached_property
    def smallest_effect(self) -> float:
        """The smallest effect judged in this capture: what was asked for, or what the A/A arm could resolve."""
        return max(self.asked_effect, self.resolution or 0.0)

    @cached_property
    def is_coarse(self) -> bool:
        """Whether only effects larger than the A/A arm's interval can be told here, and nothing about smaller ones."""
        return self.resolution is not None and self.resolution > COARSE_RESOLUTION

    @cached_property
    def withheld(self) -> str:
        """Why all verdicts are withheld, or an empty string."""
        if not self.capture.blocks:
            return ""
        values = self.values(AA_ARM)
        if len(values) < stats.LOOKS[0]:
            return (
                f"the A/A arm (the control against itself) has only {len(values)} pairs, "
                f"{stats.LOOKS[0]} are needed before anything is believed. {self.budget_for(stats.LOOKS[0] - len(values), 1)}"
            ).rstrip(". ")
        judged = stats.judge(values, self.asked_effect, 1, self.noise, self.overlap(AA_ARM))
        if judged in ("helps", "hurts"):
            speedup = math.exp(stats.trimmed_mean(values))
            return f"the control against itself came out {speedup:.3f}x: something drifts with the order of the blocks"
        assert self.resolution is not None
        if self.resolution > WORST_RESOLUTION:
            known = self.resolution < WIDEST
            how = f"only known to ±{self.resolution:.0%}" if known else f"not known yet ({len(values)} pairs)"
            return f"the control against itself is {how}: the machine is too busy or the budget too small"
        return ""

    @cached_property
    def fault_share(self) -> float:
        """The share of a step that page faults take where they are most (90th percentile of the control's blocks), on the CPU.

        Which pieces of memory the allocator gives back differs from process to process of one script, so another run may have
        any share up to this one. 0 on a GPU, whose step does not wait for them, and where their cost is not known.
        """
        cost, rates = self.measurement("machine.page_fault"), sorted(self.fault_rates)
        return min(1.0, cost.median * rates[math.ceil(0.9 * len(rates)) - 1]) if cost is not None and rates else 0.0

    @cached_property
    def fault_rates(self) -> list[float]:
        """Page faults a second in each block of the user's own settings; empty on a GPU and where they were not counted."""
        if self.capture.loop is None or self.capture.loop.device != "cpu":
            return []
        # What other work (validation) took of memory is in the count of a block that has such steps, and not in its seconds.
        return [b.faults / b.seconds for b in self.capture.blocks
                if b.arm in (CONTROL_ARM, AA_ARM) and b.seconds and b.faults is not None and not b.irregular]

    def unseen_faults(self, arm: str) -> float:
        """Share of the original's step for page faults that the changed script takes, and ``arm`` did not in the scan.

        In the scan a plan is served from memory that the control's larger pieces left free; in a process of its own it is not.
        0 where the plan moves loading into workers: the faults that end with it may be the loader's.
        """
        cost, own, loop = self.measurement("machine.page_fault"), self._faults_a_second(arm), self.capture.loop
        if cost is None or own is None or loop is None:
            return 0.0
        if self.level_of("loading", arm) is not None and not all(loader.num_workers for loader in loop.loaders):
            return 0.0
        return max(0.0, UNSEEN * self.fault_share - cost.median * own)

    def _faults_a_second(self, arm: str) -> float | None:
        """Page faults of an arm's blocks in a second of the control's steps; None where none were counted."""
        blocks = [b for b in self.capture.blocks
                  if b.arm == arm and b.count and b.faults is not None and not b.irregular]
        pace = self.control_pace()
        if not blocks or not pace:
            return None
        return math.fsum(b.faults or 0 for b in blocks) / (pace * sum(b.count for b in blocks))

    def expected(self, arm: str, measured: Effect) -> Effect:
        """What a script changed as in ``arm``, which was measured so, should come to: for another process at another time."""
        widened = widening(self.capture.loop, self.capture.machine) if self.capture.loop else 1.0
        return predicted(measured, self.fault_share, self.unseen_faults(arm), spread(self.other_cores(arm), widened))

    def other_cores(self, arm: str) -> bool:
        """Whether another number of threads computes, and no worker processes take the place of those left out."""
        return self.level_of("computing", arm) is not None and self.level_of("loading", arm) is None

    @property
    def other_machine(self) -> str:
        """In what this machine differs from those that the spread between runs is known from; empty where it does not."""
        return other_machine(self.capture.loop, self.capture.machine) if self.capture.loop else ""

    def control_pace(self) -> float | None:
        """Median seconds a step of the control while the plan was confirmed, or else of the scan; None without steps."""
        paces = [b.pace for b in self.capture.blocks
                 if b.arm == CONTROL_ARM and b.count and b.phase == CONFIRM_PHASE]
        return statistics.median(paces) if paces else self.step_seconds or None

    def budget_needed(self, pairs: int, arms: int) -> int | None:
        """The least budget, in seconds, that holds so many pairs more, and the fewest that decide on ``arms`` changes.

        None where it was not the budget that ended the experiment.
        """
        blocks = [b.seconds + math.fsum(b.warmup) + b.switch for b in self.capture.blocks]
        budget = self.capture.run.budget
        if not blocks or budget is None or self.capture.experiment.reason != "budget spent":
            return None
        # Two arms share a control block.
        more = 1.5 * statistics.fmean(blocks) * (pairs + arms * stats.LOOKS[0])
        return math.ceil((budget + more) / 10) * 10

    def budget_for(self, pairs: int, arms: int) -> str:
        """:meth:`budget_needed` in a sentence; empty where there is none."""
        asked = self.budget_needed(pairs, arms)
        if asked is None:
            return ""
        what = "that needs" if arms == 0 else "one change needs" if arms == 1 else f"all {arms} need"
        return f"A step takes {self.step_seconds:.2g} s: {what} at least --budget {asked}."

    def verdict(self, arm: str) -> Verdict:
        """The verdict on one arm of the experiment."""
        if arm in self.capture.experiment.failed:
            return "untestable here"
        if self.withheld:
            return "withheld"
        settled = self.capture.experiment.verdicts.get(arm)
        arms = max(1, len(self.arms))
        found = stats.keep(settled, self.values(arm), self.smallest_effect, arms, self.noise, self.overlap(arm))
        return "undecided" if found == "no difference" and self.is_coarse else found

    def blocks_to_settle(self, arm: str) -> int | None:
        """About how many more blocks would settle an undecided arm."""
        arms = max(1, len(self.arms))
        return stats.pairs_to_settle(self.values(arm), self.smallest_effect, arms, self.noise, self.overlap(arm))

    def arms_of(self, *slugs: str) -> list[str]:
        """Arms that change only treatments among ``slugs``, and the first of them always."""
        return [a for a in self.arms if slugs[0] in config_from_id(a) and set(config_from_id(a)) <= set(slugs)]

    def memory_of(self, *arms: str) -> list[str]:
        """The most memory a step holds under the control and under ``arms``, and what it consists of, as lines of evidence."""
        lines = []
        for name in (CONTROL_ARM, *arms):
            peak = self.measurement("memory.peak", arm=name)
            if peak is None:
                continue
            parts = [
                f"{kind} {found.median / 2**20:.4g}"
                for kind in ("parameters", "gradients", "optimizer", "activations", "other")
                if (found := self.measurement(f"memory.{kind}", arm=name)) and found.median
            ]
            what = "as it is" if name == CONTROL_ARM else self.change(name)
            lines.append(f"memory {what}: {peak.median / 2**20:.4g} MiB at the fullest moment ({', '.join(parts)})")
        return lines

    def in_plan(self, arm: str) -> bool:
        """Whether the arm is a part of a plan that was confirmed as faster."""
        plan = self.capture.experiment.plan
        effect = self.effect(config_id(plan), confirm=True) if plan else None
        confirmed = effect is not None and effect.low > 1.0 and self.beyond_control(effect)
        return confirmed and config_from_id(arm).items() <= plan.items()

    def beyond_control(self, effect: Effect) -> bool:
        """Whether the effect is larger than what the control may differ from itself by, for all that the A/A arm knows.

        As small an effect of one change alone counts as `no difference`; a plan's would be believed for its name.
        """
        return effect.speedup > 1.0 + (self.resolution or 0.0)

    def planned(self, arm: str) -> bool:
        """Whether the arm may be part of a plan: none of its parts trades something else for time."""
        return all(offer.role == "change" for slug in config_from_id(arm) if (offer := self.offer(slug)) is not None)

    def numerics(self, arm: str) -> str:
        """What the arm does to loss and gradients: the worst of its parts; empty where no part touches them."""
        order = ("same numbers", "rounding", "not checked", "changes training")
        found = []
        for slug, level in config_from_id(arm).items():
            offer = self.offer(slug)
            if offer is not None and offer.numerics:
                record = self.parity_record(config_id({slug: level}))
                found.append(numerics.judge(record) if record else "not checked")
        return max(found, key=order.index, default="")

    def parity_record(self, arm: str) -> Mapping[str, Any] | None:
        """The last comparison of the arm's numbers with the control's."""
        return next((to_json(record) for record in reversed(self.capture.parity) if record.arm == arm), None)

    def seconds_saved(self, arm: str) -> float:
        """Seconds a step that the arm saves at least: the lower end of its interval (negative: it may cost)."""
        found = self.interval(arm)
        return self.step_seconds * (1 - stats.ratio_of(-found.low)) if found else 0.0

    def one_time_seconds(self, arm: str) -> float | None:
        """Seconds that the first switch to ``arm`` took beyond what its steps take later; None where it was never made."""
        mine = [block for block in self.capture.blocks if block.arm == arm and block.count]
        if not mine:
            return None
        first = min(mine, key=lambda block: (block.lap, block.i))
        usual = statistics.median(block.pace for block in mine)
        warmup = first.warmup
        return max(0.0, float(first.switch + math.fsum(warmup) - usual * len(warmup)))
