"""How an experiment divides its time, and how well it wants to know things. One frozen object, so that tests can set others."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """Shares are shares of the budget, pairs are paired blocks of an arm and the control, half-widths are in log units."""

    # -- how the budget is divided

    screen_share: float = 0.35
    """Maximum share that screening takes, so that there is time to search for the best combination."""
    search_share: float = 0.83
    """Maximum share at the end of the search, beside what is kept for the end, so that there is time to confirm the plan."""
    probes_share: float = 0.08
    """Share kept for the probes that run once, when the plan is known."""
    trades_share: float = 0.1
    """Maximum share for what trades something else for time, where screening did not reach it: it is never advised."""
    enlarging_share: float = 0.1
    """Share kept for what enlarges the process, at the very end, because nothing measured after it would be the user's own."""
    asked_share: float = 0.7
    """Share kept for these two together where nothing else is to be tried: then they are what the user asked for."""
    numerics_share: float = 0.12
    """Maximum share for comparing numbers: seconds that measure no speed."""
    again_share: float = 0.03
    """Minimum share between two blocks of the plan while anything else is measured, because the machine's state drifts."""

    # -- screening

    first_round_share: float = 0.5
    """Maximum share of the screening time that its first round takes: where arms are slow, the less promising wait."""
    rounds_ahead: int = 3
    """Minimum number of further rounds that every arm kept in screening should be able to get; others make way for it."""
    sure_pairs: int = 8
    """Maximum number of pairs of an open arm in screening: the search and the rest of the budget go on with it."""
    ceiling_pairs: int = 6
    """Minimum number of pairs after which a ceiling is known well enough: it explains, it is not advised."""
    most_cells: int = 8
    """Maximum number of joint arms for one pair of treatments that interact: with many levels they would take all the time."""
    trade_pairs: int = 2
    """Number of pairs of what trades something else for time: the fewest that have an interval."""

    # -- rounds

    arms_an_aa: int = 5
    """Number of arms of a round for which it has one block of the A/A arm, whose interval bounds every verdict."""
    arms_a_control: int = 2
    """Maximum number of arms between two control blocks: one control serves two arms, which saves a quarter of the time."""
    vague: float = 0.1
    """Maximum half-width of the A/A arm's interval; above it every round has one more block of it."""
    hopeless: float = 0.2
    """Maximum half-width of the A/A arm's interval; above it even the plan's confirmation makes room for more of it."""

    # -- the search

    drawn: int = 2
    """Maximum number of combinations drawn in a round of the search, beside the best so far: each needs its blocks."""
    search_draws: int = 16
    """Number of draws from the surrogate by which a round of the search is chosen, and its end."""
    member_draws: int = 50
    """Number of draws from the surrogate for the probability that a change helps: that is then known to about 0.06."""
    member: float = 0.8
    """Minimum probability of helping for a change to stay in the plan: each one is an edit that somebody must make."""
    unknown_noise: float = 0.1**2
    """Variance of a pair assumed before enough control blocks have run."""
    least_noise: float = 0.01**2
    """Minimum variance of a pair: what a few alike control blocks say is often less than the truth."""
    told: float = math.sqrt(0.5)
    """Maximum deviation of an estimate that is told, relative to that before the blocks: else it repeats an assumption."""

    # -- the plan's parts

    prune_share: float = 0.12
    """Maximum share of the budget for comparing the plan with what it is without one of its parts."""
    beyond_doubt: float = 0.25
    """Minimum log speed-up that a part of the plan is expected to bring beside the others for it not to be compared."""
    prune_pairs: int = 3
    """Minimum number of pairs by which it is decided whether a part earns its place; twice as many where it is not clear."""

    # -- what takes long to switch to

    late_seconds: float = 5.0
    """Minimum expected duration of a first switch, in seconds, for an arm to wait until the others are known."""
    late_reserve: float = 1.5
    """Minimum time left for such a switch, in times of its expected duration: compilation often takes longer than expected."""
    entry_share: float = 0.5
    """Maximum share of the time left that the first switch to a combination may take; else it is not tried."""
    deciding_pairs: int = 5
    """Minimum number of pairs before what takes long to switch to is compared with the plan that does without it."""

    # -- slow steps

    scarce_blocks: int = 30
    """Minimum number of blocks in the budget for a search to answer anything; with fewer, where it is the steps that are slow,
    a few changes, named beforehand, are decided instead."""
    slow_block: float = 1.0
    """Minimum duration of a block, in seconds, for its steps to be called slow."""

    # -- how well things are to be known

    confirm_pairs: int = 8
    """Minimum number of pairs of the plan before anything else: its effect is estimated from these and later ones alone."""
    confirmed: float = 0.03
    """Maximum half-width of the plan's interval; below it more of its blocks would tell nobody more."""
    most_confirm_pairs: int = 32
    """Maximum number of pairs of the plan; where they do not suffice, the effect itself comes and goes with the machine."""
    decided: float = 0.05
    """Maximum half-width of a decided change's interval; below it more of its blocks would tell nobody more."""
    most_decided_pairs: int = 13
    """Maximum number of pairs of a decided change: it is decided, and others are not."""
    most_compared: int = 6
    """Maximum number of changes whose numbers are compared at a time, so that each has a trajectory of some length."""


DEFAULT = Policy()
