"""How the bundled models are made: training, fine-tuned twins, calibration and the reports."""
