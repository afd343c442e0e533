"""The counterattack, fast: schedule (pure functions), engine, differentiable forms, precision, cost model."""
