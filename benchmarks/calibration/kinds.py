"""All simulations, by name."""

from benchmarks.calibration import ablations, partitions, patching, samples

SIMULATIONS = {
    simulation.run.__name__: simulation
    for room in (ablations, patching, partitions, samples)
    for simulation in room.SIMULATIONS
}
