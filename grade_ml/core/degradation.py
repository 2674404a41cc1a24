"""Why an output is degraded: by a fault, or as is expected in the situation.

Expected is, for example, that the baseline serves while no ensemble has passed its checks. Such a
reason is shown with the output like any other, but it costs no health and sends no alert: nothing
is to be repaired. Reasons are stored as text, so the text itself shows which kind it is.
"""

from collections.abc import Iterable

_EXPECTED = " (as expected)"


def expected(reason: str) -> str:
    """Return `reason` as an expected reason.

    >>> expected("one term has ended")
    'one term has ended (as expected)'
    """
    return f"{reason}{_EXPECTED}"


def faults(reasons: Iterable[str]) -> list[str]:
    """Return the reasons that are faults, each once.

    >>> faults([expected("one term has ended"), "lime is not installed"])
    ['lime is not installed']
    """
    return [reason for reason in dict.fromkeys(reasons) if not reason.endswith(_EXPECTED)]
