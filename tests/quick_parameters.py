"""Parameters with which chapters end within a minute, for tests."""

QUICK_TRAINING = {"num_train_iterations": 4, "test_interval": 2, "print_interval": 1}
QUICK = {**QUICK_TRAINING, "test_tasks": 20}
QUICK_JUDGEMENT = {"init": "untrained", "trials_per_speaker": 4, "test_tasks": 20}
