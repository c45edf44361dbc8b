"""The waves of a simulated heartbeat as a dipole in the chest, and what twelve leads see of it.

A wave is a sum of bells in time, each with a direction in space: x to the patient's left, y to the feet, z to the back.
Dower's matrix (Dower, Machado and Osborne, Clinical Cardiology 1980; 3: 87) gives the eight leads that are measured,
and Einthoven's and Goldberger's laws give the other four. What stands out in one lead of a real ECG therefore stands
out in the others too: a block of the right bundle has its R' in V1 and its broad S in I and V6 for the same reason.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# mV in I, II and V1 to V6 of a dipole of 1 along x, y and z.
DOWER = np.array(
    [
        [0.632, -0.235, 0.059],  # I
        [0.235, 1.066, -0.132],  # II
        [-0.515, 0.157, -0.917],  # V1
        [0.044, 0.164, -1.387],  # V2
        [0.882, 0.098, -1.277],  # V3
        [1.213, 0.127, -0.601],  # V4
        [1.125, 0.127, -0.086],  # V5
        [0.831, 0.076, 0.230],  # V6
    ]
)


class Bell(NamedTuple):
    """One bell of a wave."""

    at_s: (
        float  # its top, after the middle of the QRS; of a P wave after the middle of the P, of a T wave after its top
    )
    rise_s: float  # standard deviation before the top
    fall_s: float  # and after it
    x: float
    y: float
    z: float


class Shape(NamedTuple):
    """The waves of a kind of beat that the ventricles make."""

    qrs: tuple[Bell, ...]
    t: tuple[Bell, ...]
    t_late_s: float = 0.0  # how much later T comes than after a narrow QRS


# The right atrium, in front, is excited before the left one, behind: P is biphasic in V1.
P_WAVE = (
    Bell(-0.016, 0.019, 0.022, 0.05, 0.08, -0.05),
    Bell(0.018, 0.022, 0.020, 0.08, 0.06, 0.02),
)

# Septum, free walls, base. No lead sees the whole of it: q in I and V6 is r in V1.
NORMAL = Shape(
    (
        Bell(-0.026, 0.009, 0.009, -0.13, 0.00, -0.32),
        Bell(0.000, 0.011, 0.011, 1.20, 0.75, 0.50),
        Bell(0.021, 0.012, 0.011, -0.12, -0.16, 0.42),
    ),
    (Bell(0.0, 0.062, 0.038, 0.29, 0.21, -0.15),),
)

# The septum is excited from the right: no q in I and V6. The left ventricle follows late and slowly: a notched R, a
# deep S in V1 to V3, and ST and T against the QRS.
LEFT_BUNDLE_BRANCH_BLOCK = Shape(
    (
        Bell(-0.044, 0.013, 0.016, 0.25, 0.20, 0.02),
        Bell(-0.014, 0.018, 0.021, 0.86, 0.40, 0.92),
        Bell(0.031, 0.021, 0.019, 0.92, 0.22, 0.98),
    ),
    (Bell(-0.11, 0.05, 0.06, -0.12, -0.04, -0.18), Bell(0.0, 0.062, 0.042, -0.38, -0.06, -0.40)),
    0.045,
)

# The first half as ever; then the right ventricle alone, to the right and to the front: R' in V1, a broad S in I and
# V6.
RIGHT_BUNDLE_BRANCH_BLOCK = Shape(
    (
        Bell(-0.026, 0.009, 0.009, -0.13, 0.00, -0.34),
        Bell(0.000, 0.011, 0.012, 1.02, 0.72, 0.14),
        Bell(0.054, 0.018, 0.021, -0.58, -0.04, -0.66),
    ),
    (Bell(0.0, 0.062, 0.040, 0.32, 0.20, 0.17),),
    0.030,
)

# From a lead in the right ventricle's apex: to the left, upwards and to the back.
PACED = Shape(
    (
        Bell(-0.040, 0.018, 0.018, 0.30, -0.35, 0.10),
        Bell(-0.005, 0.020, 0.022, 0.48, -0.78, 0.66),
        Bell(0.042, 0.018, 0.022, 0.40, -0.48, 0.62),
    ),
    (Bell(-0.11, 0.05, 0.06, -0.10, 0.14, -0.16), Bell(0.0, 0.065, 0.046, -0.30, 0.42, -0.38)),
    0.050,
)

# A premature beat from the left ventricle travels to the right, one from the right ventricle's outflow tract to the
# feet.
PREMATURE = (
    Shape(
        (
            Bell(-0.030, 0.022, 0.022, -0.55, -0.60, -0.95),
            Bell(0.025, 0.024, 0.026, -0.85, -0.90, -1.10),
        ),
        (Bell(-0.10, 0.05, 0.06, 0.18, 0.18, 0.22), Bell(0.0, 0.07, 0.05, 0.42, 0.45, 0.50)),
        0.055,
    ),
    Shape(
        (
            Bell(-0.035, 0.020, 0.022, 0.15, 1.00, 0.30),
            Bell(0.020, 0.024, 0.026, 0.30, 1.15, 0.95),
        ),
        (Bell(-0.10, 0.05, 0.06, -0.06, -0.20, -0.20), Bell(0.0, 0.07, 0.05, -0.12, -0.50, -0.48)),
        0.055,
    ),
)

# The electrodes of the chest are nearer to the ventricles than a dipole's field has it: of the atria they see less,
# but V1.
ATRIA = np.array([1.0, 1.0, 1.5, 0.60, 0.45, 0.40, 0.40, 0.40])

FLUTTER = np.array([0.03, 0.16, 0.10])  # of the sawtooth: a slow fall in II, III and aVF, a slow rise in V1
FIBRILLATION = np.array([-0.35, 0.55, -0.75])  # of the trembling atria, which V1 sees best
SPIKE = np.array([0.50, -0.75, 0.10])  # of a pacemaker's pulse


class Body(NamedTuple):
    """Where one patient differs from others, in every recording."""

    leads: Array  # (8, 3) mV of a dipole of 1 in the ventricles: the place of the electrodes
    p: Array  # (3, 3) turns and scales the dipoles of the P wave
    qrs: Array  # (3, 3) the same of the QRS, whose turn is the electrical axis
    t: Array  # (3, 3) the same of the T wave


def draw_body(rng: np.random.Generator) -> Body:
    """Draw a patient: size, electrical axis, turn of the heart about the body's length, and the electrodes' places."""
    leads = DOWER * rng.lognormal(0, 0.08, (8, 1)) + rng.normal(0, 0.03, DOWER.shape)
    size = rng.lognormal(0, 0.20)
    axis, turn = rng.normal(-4, 18), rng.normal(0, 12)
    qrs = size * _rotate(axis, turn)
    t = size * rng.lognormal(0, 0.22) * _rotate(0.4 * axis + rng.normal(0, 8), 0.5 * turn + rng.normal(0, 8))
    p = rng.lognormal(-0.15, 0.36) * _rotate(0.3 * axis + rng.normal(0, 8), rng.normal(0, 8))
    return Body(leads, p, qrs, t)


def _rotate(axis_deg: float, turn_deg: float) -> Array:
    """(3, 3): by `axis_deg` in the frontal plane, clockwise as an axis is counted, and by `turn_deg` to the back."""
    a, b = np.radians([axis_deg, turn_deg])
    frontal = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    transverse = np.array([[np.cos(b), 0, -np.sin(b)], [0, 1, 0], [np.sin(b), 0, np.cos(b)]])
    product: Array = frontal @ transverse
    return product


def draw_bells(times: Array, tops: Array, bells: tuple[Bell, ...], stretch: Array, heights: Array) -> Array:
    """The dipole of a wave that comes several times.

    Args:
        times: (samples,) in seconds, rising evenly.
        tops: (beats,) when each comes.
        bells: Of the wave.
        stretch: (beats,) factors of the bells' times and widths.
        heights: (beats,) factors of their heights.

    Returns:
        (3, samples).
    """
    dipole = np.zeros((3, times.size))
    for bell in bells:
        course = np.zeros(times.size)
        for top, factor, height in zip(tops + bell.at_s * stretch, stretch, heights, strict=True):
            first, last = np.searchsorted(times, [top - 4.5 * bell.rise_s * factor, top + 4.5 * bell.fall_s * factor])
            away = times[first:last] - top
            course[first:last] += height * np.exp(
                -0.5 * (away / np.where(away < 0, bell.rise_s * factor, bell.fall_s * factor)) ** 2
            )
        dipole += np.array([[bell.x], [bell.y], [bell.z]]) * course
    return dipole


def project_on_twelve(leads: Array) -> Array:
    """(8, samples) in mV to (12, samples), in whole microvolts: by Einthoven's and Goldberger's laws."""
    one, two = 2 * np.round(leads[:2] * 500)  # microvolts, even, so that their halves are whole too
    limbs = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    microvolts: Array = np.concatenate([limbs, np.round(leads[2:] * 1000)])
    return microvolts / 1000
