"""What each attribute of students and enrollments may be used for, by sources and institution.

`declared` holds what sources declare, the institution's file what the institution declares. Other
modules handle the values of attributes and the columns that they become.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from grade_ml.core.errors import ConfigurationError
from grade_ml.gradebook.declared import CAMPUS, METADATA, ONEROSTER, OULAD
from grade_ml.gradebook.institution import Institution, Use

#: From free to strict.
_ORDER = list(Use)


@dataclass(frozen=True)
class Declarations:
    """The uses of attributes by name; an undeclared attribute has none, and no code reads it.

    Names are equal in any case, and with or without OneRoster's `metadata.`; the attributes
    hold them in lower case and without it.
    """

    usable: frozenset[str] = frozenset()
    protected: frozenset[str] = frozenset()
    identifying: frozenset[str] = frozenset()

    def use_of(self, name: str) -> Use | None:
        """Return the use of an attribute, `None` if it is not declared."""
        key = _key(name)
        for use, names in zip(_ORDER, (self.usable, self.protected, self.identifying), strict=True):
            if key in names:
                return use
        return None

    @classmethod
    def of(cls, uses: Mapping[str, Use]) -> Self:
        """Return the uses by name as one value."""
        return cls(
            *(
                frozenset(_key(name) for name, declared in uses.items() if declared is use)
                for use in _ORDER
            )
        )


def _key(name: str) -> str:
    return name.casefold().removeprefix(METADATA)


def _strictest(tables: Iterable[Mapping[str, Use]]) -> dict[str, Use]:
    """Return one table: an attribute protected in one source is protected in every source."""
    uses: dict[str, Use] = {}
    for table in tables:
        for name, use in table.items():
            uses[_key(name)] = max(use, uses.get(_key(name), use), key=_ORDER.index)
    return uses


_DECLARED = _strictest((OULAD, ONEROSTER, CAMPUS))
#: What the sources declare, without an institution.
SOURCES = Declarations.of(_DECLARED)


def declarations(institution: Institution) -> Declarations:
    """Return what sources and institution declare together.

    Raises
    ------
    ConfigurationError
        The institution allows what a source declares protected or identifying.
    """
    for name, use in institution.attributes.items():
        before = SOURCES.use_of(name)
        if before and _ORDER.index(use) < _ORDER.index(before):
            raise ConfigurationError(
                f"The institution's file declares the attribute {name} {use}, but its source "
                f"declares it {before}.",
                f"Remove {name} from [attributes]: a declared attribute can only be restricted "
                "further.",
            )
    return Declarations.of(_strictest((_DECLARED, institution.attributes)))
