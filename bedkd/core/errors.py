"""The one error type a user is meant to read."""


class BedkdError(Exception):
    """Bad input or a run that cannot go on: one sentence with the value and what would be right."""


class DivergenceError(BedkdError):
    """The unbounded penalty of Eq. 6 destroyed the student; names the cycle and the loss."""


class BlindnessError(BedkdError):
    """Ground truth about the poison was about to reach the defender."""
