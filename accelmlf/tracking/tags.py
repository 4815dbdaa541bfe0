"""The schema of a record in the tracking store: every tag that accelmlf writes, and the words that some hold."""

ASKED, ARM, DEVICE = "accelmlf.ablation", "accelmlf.ablation_arm", "accelmlf.device_key"


RESUMED_IN_EPOCH = "accelmlf.resumed_in_epoch"
"""Tag of a run that was continued in the middle of an epoch that is timed, with the number of that epoch."""


KIND, STUDY, STUDY_ID = "accelmlf.kind", "accelmlf.study", "accelmlf.study_id"
OWNER, OUTCOME = "accelmlf.owner", "accelmlf.outcome"
SEARCH, TRIAL, CONFIRMATION = "search", "trial", "confirmation"
ABLATION, ARM_RUN, REPORT = "ablation", "ablation run", "report"
BLOCK, CONTINUED_BY = "accelmlf.block", "accelmlf.continued_by"
SETTING = "accelmlf.config."
WELL = ("completed", "target_not_reached")
"""Outcomes of runs that trained to their end."""
