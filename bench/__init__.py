"""Side-by-side measurements against what a user would pick instead; `make bench` runs them. Linux only.

The program under test has one core of its own. The load, PostgreSQL and RabbitMQ share the others. The candidates
take turns, in three rounds, and what counts is the ratio between neighbours in the same round: a machine that is
busy with something else slows both down. The CPU time that the program spends on a unit of work is printed beside
it, for it hardly depends on what else runs.
"""
