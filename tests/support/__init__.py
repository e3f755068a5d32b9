"""What tests share: real servers to start, fakes of what must fail on demand, reference models."""
