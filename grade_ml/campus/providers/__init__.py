"""The world around the simulated campus, served on loopback in the formats of the providers.

`world` defines the events as functions of seed and day; one module per kind of provider writes them
in that provider's format; `server` serves them and can be made to misbehave. All data are made up,
and every answer states it. The clients of these formats are in the package `external`, which does
not import this package.
"""
