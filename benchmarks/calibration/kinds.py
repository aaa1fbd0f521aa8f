"""All simulations, by name."""

from benchmarks.calibration import ablations, partitions, patching, samples, steering

SIMULATIONS = {
    simulation.run.__name__: simulation
    for room in (ablations, patching, partitions, samples, steering)
    for simulation in room.SIMULATIONS
}
