"""The machinery of training: base trainer, auxiliary networks, teacher, checkpoints, curves, schedules."""
