"""Pictures, attacks and baselines: what a defence is measured with."""
