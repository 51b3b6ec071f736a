"""PD807: steps get slower at equal work."""

from __future__ import annotations

from perfdoc.core.durations import seconds
from perfdoc.core.finding import Finding
from perfdoc.diagnosis import growth, places
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule
from perfdoc.rules.denormals import Denormals

WHAT = {
    "data": "waiting for data", "transfer": "moving the batch", "forward": "the forward pass", "loss": "the loss",
    "backward": "the backward pass", "optimizer": "the optimizer",
    "other": "what the script does between the calls",
}
CALLS = {"forward": "forward", "loss": "backward", "backward": "backward", "optimizer": "step"}
"""The call of a step at whose line a phase is paid."""
FIXES = {
    "data": "look for what the data set does more of with every sample (a search in a list that grows, a cache)",
    "optimizer": "look for values that the optimizer updates and that nobody needs",
    "other": "compute over the whole epoch once, at its end, and keep sums instead of lists",
}


class GrowingStep(Rule):
    """Steps take longer and longer although each has the same work to do.

    What it measures
    ----------------
    The phases of the steps under your own settings, in early and in late blocks of the scan whose steps have equal work: the
    same calls, and as many numbers given to the model. A phase that grew while the others did not is named, with the step
    from which on. When all phases grew alike it is the machine that got slower, and this rule is silent.

    Why it costs time
    -----------------
    What is done over everything that has come so far (a metric over the whole epoch, a mean over a list) takes longer in each
    step. Over an epoch, its cost grows with the square of the epoch's length. A scan that lasts a minute sees its beginning.

    Example
    -------
    ::

        history = []
        for x, y in loader:
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            history.append(loss.item())
            average = sum(history) / len(history)

    Use instead
    -----------
    ::

        total = count = 0
        for x, y in loader:
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            total, count = total + loss.item(), count + 1

    When this is wrong
    ------------------
    If the work itself grows on purpose, such as longer rollouts. A scan holds the loop inside its epoch, so what is dropped
    at an epoch's end may grow further in it than in your own run; it is left to end where this is noticed.
    """

    code = "PD807"
    slug = "growing-step"
    names_cause = "time"
    needs = ("step.time", "lists.grown")
    effort = "a few lines"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where one phase grew at equal work, and nothing else has told why already."""
        grown = growth.step_growth(seen.capture)
        if grown is None:
            return None
        denormals = Denormals().check(seen) if grown.phase == "optimizer" else None
        if denormals is not None and denormals.verdict == "helps":
            return None
        lists = seen.measurements("lists.grown") if grown.phase in ("loss", "other") else []
        lists.sort(key=lambda m: (not m.conditions.get("read"), -m.median))
        since = f"batch {grown.since} of the epoch" if grown.in_epoch else f"step {grown.since}"
        title = (f"steps get slower at equal work ({seconds(grown.step_early)}, then {seconds(grown.step_late)} from about "
                 f"{since} on): {WHAT[grown.phase]} rose from {seconds(grown.early)} to {seconds(grown.late)}")
        evidence = [f"from {grown.early_share:.0%} to {grown.late_share:.0%} of the step: "
                    f"{seconds(grown.late - grown.early)} more [{seconds(grown.low)}, {seconds(grown.high)}]; "
                    "early and late steps had the same calls, and as many numbers given to the model"]
        saved = max(0.0, grown.low)
        epoch = self._epoch(seen)
        if grown.phase in ("loss", "other") and epoch:
            # What is collected over an epoch is dropped at its end: on average over an epoch it is half of what it is then.
            times = epoch / grown.apart / 2
            saved *= min(1.0, times)
            more = seconds((grown.late - grown.early) * times)
            evidence.append(f"over an epoch of {epoch} steps {more} a step on average, if it goes on like that")
        where = places.call(seen.capture, CALLS[grown.phase]) if grown.phase in CALLS else ""
        if grown.phase == "data":
            where = seen.loader_site
        if lists:
            worst = lists[0].conditions
            where = str(worst.get("read") or worst.get("site") or "")
            title += f"; {worst['name']} grows with it"
            evidence += [f"{m.conditions['name']} grows in every step (filled at {m.conditions['site']}"
                         + (f", read at {m.conditions['read']})" if m.conditions.get("read") else ")") for m in lists]
        fix = FIXES.get(grown.phase, "look for what this part does more of with every step")
        return Finding(self.code, self.slug, title, where, "undecided",
                       fix, tuple(evidence), effort=self.effort, seconds_saved_a_step=saved)

    @staticmethod
    def _epoch(seen: Evidence) -> int:
        """Steps of an epoch; 0 where that is not known."""
        batches, loop = seen.measurement("loader.batches_an_epoch"), seen.capture.loop
        if batches is None or loop is None or not loop.loaders:
            return 0
        return round(batches.median / max(1, loop.loaders[0].batches_a_step))
