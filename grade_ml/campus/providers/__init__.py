"""The world around the simulated campus, served on loopback in the formats of the providers.

`world` holds what happens, as functions of seed and day; one module per kind of provider puts it
into that provider's format; `server` serves it and can be told to misbehave. Nothing here is real,
and every answer says so. The clients of these formats live in the room `external`, which knows
nothing of this one.
"""
