"""What follows from forecasts: who may fall behind when and why, what to do, what is unusual."""
