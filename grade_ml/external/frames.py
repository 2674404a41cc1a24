"""The one shape of observations on their way into the store, judged before they get there."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaErrors

from grade_ml.external.protocol import About, Observation, Place, ProviderError

SCHEMA = pa.DataFrameSchema(
    {
        "source": pa.Column(str),
        "series": pa.Column(str),
        "place": pa.Column(str),
        "observed_on": pa.Column("datetime64[ns]"),
        "available_at": pa.Column("datetime64[ns, UTC]"),
        "fetched_at": pa.Column("datetime64[ns, UTC]"),
        "value": pa.Column(float, nullable=True),
        "unit": pa.Column(str),
    },
    unique=["source", "series", "place", "observed_on"],
    strict=True,
)


def observations(
    about: About, rows: Iterable[Observation], place: Place, fetched_at: datetime
) -> pd.DataFrame:
    """Return the rows of one collection of one source as a frame that satisfies `SCHEMA`.

    Raises
    ------
    ProviderError
        A value is impossible in its series, or two rows have the same key; the first is named.
    """
    units = {series.name: series.unit for series in about.series}
    columns = [*Observation._fields]
    frame = pd.DataFrame(list(rows), columns=columns).assign(
        source=about.name, fetched_at=pd.Timestamp(fetched_at).tz_convert("UTC")
    )
    frame["place"] = frame["place"].fillna(place.key).astype(str)
    frame["unit"] = frame["series"].map(units).astype(str)
    frame["observed_on"] = pd.to_datetime(frame["observed_on"]).astype("datetime64[ns]")
    for name in ("available_at", "fetched_at"):
        frame[name] = pd.to_datetime(frame[name], utc=True).astype("datetime64[ns, UTC]")
    frame["value"] = frame["value"].astype(float)
    frame = frame[list(SCHEMA.columns)]
    try:
        SCHEMA.validate(frame, lazy=True)
    except SchemaErrors as error:
        first = error.failure_cases.iloc[0]
        raise ProviderError(
            about.title,
            f"the observations break the rule {first['check']} in {first['column']}: "
            f"{first['failure_case']}",
            "Adapt the source's module to the provider.",
            field=str(first["column"]),
        ) from error
    _require_possible(about, frame)
    return frame


def _require_possible(about: About, frame: pd.DataFrame) -> None:
    unknown = set(frame["series"]) - {series.name for series in about.series}
    if unknown:
        raise ProviderError(
            about.title,
            f"there is no series {', '.join(sorted(unknown))}",
            "The source's module has to name it among its facts.",
            field="series",
        )
    for series in about.series:
        of_series = frame[frame["series"] == series.name]
        known = of_series.dropna(subset="value")
        wrong = known[~known["value"].between(series.low, series.high)]
        if len(wrong):
            first = wrong.iloc[0]
            raise ProviderError(
                about.title,
                f"{series.name} is {first['value']:g} {series.unit} on "
                f"{first['observed_on']:%Y-%m-%d}, which is not between {series.low:g} and "
                f"{series.high:g}",
                "If the provider changed its unit, adapt the source.",
                field=series.name,
            )
