"""Every method against DLoRA at equal rounds and at equal bytes: `paper_checks tournament`.

A match is one method on one task and one network. Its step size is chosen on tuning seeds, from the
same grid for all methods; then it plays the reported seeds, on which all methods meet the same
data, start and noise. Twice it is scored: after the rounds of the task ("rounds"), and in the last
round within the bytes that the network's base method sends until then ("bytes").

    tasks      what a task is, the networks, and who plays where
    simulated  tasks of `decaf_theory.problems`, all seeds at once in the simulator
    trained    tasks of the harness, one training per seed
    suite      the tasks, full and quick
    play       one match: step size, scores, as rows
    verdicts   differences with intervals that hold together; wins, ties, loses, fails
    page       the rows as Markdown
    command    the command line: the store, the processes, the page
"""
