"""What an evaluation comes down to, in words: where the network is no better than a baseline."""

from __future__ import annotations

from model.datasets.folder import numbered
from model.evaluation.figures import Anomalies, Detection, Evaluation


def judgement(evaluation: Evaluation, *, with_kinds: bool = True) -> list[str]:
    """A sentence for each set of anomalies on which a baseline is as good as the default score.

    A baseline is as good if the 95 % interval of the difference of the AUROCs on the same images,
    `model.evaluation.detection.auroc_difference`, does not lie above 0. It is the best of several,
    each at the end that suits it, so it has a slight advantage; a network worth its cost beats it
    all the same. The kinds of one set share a sentence, if `with_kinds`. Empty if the network is
    better everywhere.
    """
    lines = []
    judged = evaluation.judged
    for whole in (anomalies for anomalies in judged if not anomalies.part_of):
        if baseline := whole.equal_baseline:
            lines.append(_sentence(whole, baseline))
        kinds = [anomalies for anomalies in judged if anomalies.part_of == whole.images.name]
        equal = [(kind, found) for kind in kinds if (found := kind.equal_baseline)]
        if equal and with_kinds:
            lines.append(_kinds(whole, equal, len(kinds)))
    return lines


def excess_of_alarms(evaluation: Evaluation) -> str:
    """A sentence if the default score calls more clean images anomalies than chance explains.

    It is empty otherwise. The first of the common rates is judged, by its 95 % interval.
    """
    alarms = evaluation.false_alarms
    if alarms is None or not alarms.rates:
        return ""
    first = alarms.rates[0]
    spread = alarms.spread(first.alpha, evaluation.clean.n)
    if first.rate <= first.alpha + spread:
        return ""
    return (
        f"At alpha {first.alpha:g}, {first.rate:.3f} of the clean images are false alarms, more "
        f"than chance explains ({first.alpha:g} ± {spread:.3f}): they are not like the calibration "
        "images. `vae calibrate` with some of your own mends the rate."
    )


def _sentence(anomalies: Anomalies, baseline: Detection) -> str:
    score, n = anomalies.default.score, anomalies.images.n
    advantage = baseline.advantage
    assert advantage is not None  # noqa: S101 - or it would not be as good
    end = "The network adds nothing there."
    if advantage.high < 0:
        relation = f"is better than {score}"
    elif advantage.value <= 0:
        relation = f"is as good as {score}"
    else:
        relation = f"is as good as {score} within the error"
        end = f"The network adds nothing there that {numbered(n, 'image')} could show."
    theirs, ours = round(baseline.auroc.value, 2), round(anomalies.default.auroc.value, 2)
    half = (advantage.high - advantage.low) / 2
    area, chance = anomalies.default.auroc, ""
    if area.low <= 0.5:
        chance = f", and {score} is {'worse' if area.high < 0.5 else 'no better'} than chance"
    return (
        f"On {anomalies.images.name}, {baseline.score} alone {relation}: AUROC {theirs:.2f} "
        f"against {ours:.2f} (difference {signed(theirs - ours)} ± {half:.2f}){chance}. {end}"
    )


def _kinds(whole: Anomalies, equal: list[tuple[Anomalies, Detection]], n: int) -> str:
    listed = ", ".join(
        f"{kind.images.name} ({baseline.score}, AUROC {baseline.auroc.value:.2f} against "
        f"{kind.default.auroc.value:.2f})"
        for kind, baseline in equal
    )
    share = f"all {n}" if len(equal) == n else f"{len(equal)} of the {n}"
    return (
        f"On {share} kinds in {whole.images.name}, something that needs no network "
        f"is as good as {whole.default.score} within the error, or better: {listed}."
    )


def signed(value: float) -> str:
    """Two decimals with a sign, and none for 0.

    >>> signed(0.031), signed(-0.2), signed(-0.001)
    ('0.03', '−0.20', '0.00')
    """
    rounded = round(value, 2)
    return f"{'−' if rounded < 0 else ''}{abs(rounded):.2f}"
