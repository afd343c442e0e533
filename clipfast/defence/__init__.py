"""The counterattack, fast: schedule of pure functions, engine, gradients, precision, cost model."""
