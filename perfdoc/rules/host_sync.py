"""PD201: the host waits for the device inside the step."""

from __future__ import annotations

from perfdoc.core.finding import Finding
from perfdoc.diagnosis.evidence import Evidence
from perfdoc.diagnosis.rule import Rule, best_arm, describe

SHOWN = 8
"""Places named in the evidence."""


class HostSync(Rule):
    """Calls in the step that read a value from the device, so that the host waits until the device has caught up.

    What it measures
    ----------------
    One step of your loop is watched: every call in your code that brings values of a device tensor to the host, with its line
    and how often it is made. On a GPU, the lines with the most calls are then tried without the wait: the call returns the
    value of its last real read at once, and the step is timed. On a CPU nothing waits; the report names the lines that would
    wait on a GPU. Reads of tensors that always live on the CPU (data sets, meters, the optimizer's counters) do not count.

    Why it costs time
    -----------------
    The host queues kernels ahead of the device. A call that needs a result waits until the queue is empty, and then the device
    idles until the host has queued new work. This idle time is the cost, not the time that the host waits: a wait at the
    end of a long step may cost nothing.

    Example
    -------
    ::

        loss = criterion(model(x), y)
        running = loss.item()

    Use instead
    -----------
    ::

        loss = criterion(model(x), y)
        running = loss.detach()

    When this is wrong
    ------------------
    If the value is needed at once, and rarely: once in a hundred steps costs next to nothing.
    """

    code = "PD201"
    slug = "host-sync"
    needs = ("step.time", "sync.places")
    effort = "a few lines"

    def check(self, seen: Evidence) -> Finding | None:
        """A finding where there are such places; on a CPU it says where its cost can be measured."""
        places = [found for found in seen.measurements("sync.places") if found.median and found.conditions.get("site")]
        if not places:
            return None
        places.sort(key=lambda found: -found.median)
        device = str(places[0].conditions.get("device", "cpu"))
        lines = [f"{p.conditions['site']}: {p.conditions['call']}, {p.median:.0f} a step" for p in places[:SHOWN]]
        if len(places) > SHOWN:
            lines.append(f"and {len(places) - SHOWN} more places")
        times = sum(found.median for found in places)
        what = "waits for the device" if device != "cpu" else "would wait for a GPU"
        title = f"the host {what} {times:.0f} times a step, at {len(places)} {'place' if len(places) == 1 else 'places'}"
        where = str(places[0].conditions["site"])
        if device == "cpu":
            fix = "nothing waits on a CPU: scan on the machine with the GPU before you change it. " + "; ".join(lines[:3])
            return Finding(self.code, self.slug, title, where, "untestable here", fix, tuple(lines), effort=self.effort)
        arms = seen.arms_of("sync_removal")
        if arms:
            best = best_arm(seen, arms)
            tried = seen.change(best).removeprefix("no wait at ").split(" (")[0]
            return self.finding(seen, best, f"{title}; {describe(seen, best)}", tried,
                                "keep the value on the device and read it every hundred steps", lines)
        return Finding(
            self.code, self.slug, title, where, "undecided",
            "keep the value on the device and read it every hundred steps; its effect was not measured", tuple(lines),
            effort=self.effort,
        )
