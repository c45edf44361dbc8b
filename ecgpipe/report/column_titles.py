"""What the page calls the columns of records/, in words and with units."""

from ecgpipe.core.leads import LEADS

# By column. A column of the inputs' tables keeps its own name.
TITLES = {
    "sample_rate": "sampling rate (Hz)",
    "duration_s": "duration (s)",
    "n_segments": "segments",
    "discarded_s": "discarded (s)",
    "lead_suspicion": "lead suspicion",
    "clipped_leads": "clipped leads",
    "flat_leads": "flat leads",
    "flat_s": "longest flat stretch (s)",
    "constant_leads": "constant leads",
    "missing_leads": "missing leads",
    "derived_leads": "derived leads",
    "einthoven_residual": "Einthoven residual",
    "goldberger_residual": "Goldberger residual",
    **{f"amplitude_mv_{lead}": f"amplitude {lead} (mV)" for lead in LEADS},
    "device_heart_rate": "device: heart rate (/min)",
    "device_pr_ms": "device: PR (ms)",
    "device_qrs_ms": "device: QRS (ms)",
    "device_qt_ms": "device: QT (ms)",
    "device_qtc_ms": "device: QTc (ms)",
    "device_p_axis": "device: P axis (°)",
    "device_qrs_axis": "device: QRS axis (°)",
    "device_t_axis": "device: T axis (°)",
}

# How the columns of the leads' amplitudes begin.
AMPLITUDE = "amplitude_mv_"

# Below this a residual is rounding alone.
SMALLEST = 0.0005


def format_number(value: float) -> str:
    """Write a measured number with three digits, as the page's table does."""
    if 0 < abs(value) < SMALLEST:
        return "< 0.001"
    if value == int(value):
        return str(int(value))
    return f"{value:.0f}" if abs(value) >= 1000 else f"{float(f'{value:.3g}'):g}"
