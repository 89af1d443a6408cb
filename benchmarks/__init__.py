"""
The benches, in rooms by what they prove: `quality` how good what is found is, `speed` what the model's work costs,
`search` how a gallery answers, `reliability` what holds when processes are killed, crowds come, or the code is wrong.

`python -m benchmarks` lists them, `python -m benchmarks NAME` runs one. A bench is a module of a room with a function
`main`; the modules beside the rooms are what they share. Results are written into `results/`.
"""
