"""What the kit measures and claims, above all other rooms.

In reading order: score_profile.py (a profile's scores), ablation.py (one change at a time, several seeds),
context_range.py (how far context should reach), cost.py (parameters, operations, memory), speed.py (seconds, beside the
machine's peak), figures.py (every figure), reproduce.py (a profile's notebooks run and judged), judge.py (the comparison
with the reference), report.py and report_template.html (what is shown of it), model_cards.py (what is said of the shipped models).
Profiles themselves are training/profiles.py, since a training needs one, too.
"""
