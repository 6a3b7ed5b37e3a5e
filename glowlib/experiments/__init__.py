"""What the kit measures and claims, above all other rooms.

In reading order: score_profile.py (a profile's scores), study.py (networks that differ in one thing, several seeds),
context_range.py (whole images against tiles), interventions.py (parts of the context changed), influence.py and
attention_maps.py (what trained networks use), cost.py (parameters, operations, memory), speed.py (seconds, memory),
figures.py and diagrams.py (every figure), notebook.py and widgets.py (what the notebooks share), reproduce.py (a
profile's notebooks run and judged), judge.py (the comparison with the reference), report.py and report_template.html
(its text), readme.py (the results in README and docs), api.py (the page of the public functions), model_cards.py (the
cards of the shipped models).
Profiles themselves are training/profiles.py, since a training needs one, too.
"""
