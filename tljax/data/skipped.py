"""Images that cannot be used: named, counted, and too many of them are an error."""

from collections.abc import Callable

from tljax.errors import DataError, quote

# So many are named in an error, and on the terminal.
NAMED = 5


class Skipped:
    """The images that a run had to do without.

    In training the next image that can be used stands in for one of them; evaluations
    leave it out.
    """

    def __init__(self, total: int, max_fraction: float, say: Callable[[str], None]):
        self.total = total
        self.max_fraction = max_fraction
        self.say = say
        self.reasons: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        """Notes an image; raises DataError where there are too many of them."""
        if name in self.reasons:
            return
        self.reasons[name] = reason
        if len(self.reasons) > self.max_fraction * self.total:
            first = list(self.reasons.items())[:NAMED]
            named = "; ".join(f"{quote(name)}: {quote(why)}" for name, why in first)
            raise DataError(
                f"{len(self.reasons)} of {self.total:,} images cannot be used, more "
                f"than config.data.max_bad_fraction = {self.max_fraction:g}: {named}"
            )
        if len(self.reasons) <= NAMED:
            self.say(f"skipped: {quote(name)}: {quote(reason, 120)}")
        elif len(self.reasons) == NAMED + 1:
            self.say("skipped: more images; the result names all of them")
