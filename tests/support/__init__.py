"""What tests share: real servers to start, fakes for what must fail on demand, models to compare."""
