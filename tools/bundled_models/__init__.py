"""How the bundled model is made: training, its fine-tuned twin, calibration and the report."""
