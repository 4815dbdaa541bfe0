"""A list of techniques: the value of the setting `techniques`. Standard library only."""

from dataclasses import dataclass, field

from accelmlf.errors import ConfigError

NONE, AUTO = "none", "auto"


def word_and_option(label: str) -> tuple[str, str | None]:
    """`amp:bf16` as amp and bf16; without a colon there is no option."""
    word, colon, option = label.partition(":")
    return word, option if colon else None


@dataclass(frozen=True)
class TechniqueList:
    """Techniques by their labels, a word with or without an option (`amp`, `amp:bf16`), in the order given.

    Which words there are, and what this device can run, is not known here (`techniques.stack`).
    """

    labels: tuple[str, ...] = ()
    is_preset: bool = field(default=False, compare=False)
    """Set by a recipe: what the device cannot run is left out and said, where it would be an error if asked for."""

    def __post_init__(self) -> None:
        if twice := [word for word in self.words if self.words.count(word) > 1]:
            raise ConfigError("techniques", self, f"{twice[0]} is there twice", "Name each technique once")

    @classmethod
    def parse(cls, text: str, *, name: str = "techniques") -> "TechniqueList":
        """A comma list, or `none`.

        Raises:
            ConfigError: an empty or repeated name, or `none` beside others; `name` is the setting that is named.
        """
        labels = tuple(part.strip() for part in text.split(","))
        if labels == (NONE,):
            return cls()
        if AUTO in labels and len(labels) > 1:
            raise ConfigError(name, text, f"{AUTO} stands alone: it measures all of them", "Leave it or the others out")
        words = [word_and_option(label)[0] for label in labels]
        if NONE in words:
            raise ConfigError(name, text, f"{NONE} stands alone", "Leave it or the others out")
        if "" in words:
            raise ConfigError(name, text, "a name is empty", f"Separate names by single commas; {NONE} is no technique")
        return cls(labels)

    def __str__(self) -> str:
        """As a user types it."""
        return ",".join(self.labels) or NONE

    @property
    def is_auto(self) -> bool:
        """Whether they are still to be chosen, by a measurement."""
        return self.labels == (AUTO,)

    @property
    def words(self) -> tuple[str, ...]:
        """The techniques without their options."""
        return tuple(word_and_option(label)[0] for label in self.labels)

    def with_(self, *labels: str) -> "TechniqueList":
        """These after the others."""
        return TechniqueList((*self.labels, *labels))
