"""What a job asks for: memory and time that grow with the inputs and with each attempt, and its share of the cores."""

from collections.abc import Callable

# On a cluster no option says how many cores a job has: as many as in profiles/slurm.
_CORES_ON_A_CLUSTER = 8

# Parts whose segments may wait on a cluster, where nothing says how many GPUs there are: 120 GB.
_PARTS_ON_A_CLUSTER = 20


def growing(amount: int, per_million: int, recordings: Callable[[], int]) -> Callable[..., int]:
    """Megabytes or minutes of a job on a cluster: twice as much for each further attempt.

    Args:
        amount: What the first attempt has.
        per_million: What it has in addition for each million of recordings.
        recordings: Gives how many recordings the last scan found, 0 before the first scan. Called for each job of a
            rule that has `per_million`.

    Returns:
        A function for a rule's `resources`.
    """

    def amount_of_job(wildcards: object, attempt: int) -> int:
        more = per_million * recordings() // 1_000_000 if per_million else 0
        return (amount + more) << (attempt - 1)

    return amount_of_job


def within_limit(
    minutes: Callable[..., int], limit_of: Callable[[str], int | None], say: Callable[[str], None]
) -> Callable[..., int]:
    """Minutes of a job on a cluster: no more than its partition allows, where it would wait for ever.

    Args:
        minutes: What it asks for (`growing`).
        limit_of: Gives the minutes that a rule's partition allows; None where there is no limit.
        say: Tells the user, once for a rule, that it gets less than it asks for.

    Returns:
        A function for a rule's `resources`.
    """
    said = set()

    def minutes_of_job(wildcards: object, attempt: int, rulename: str) -> int:
        asked, limit = minutes(wildcards, attempt=attempt), limit_of(rulename)
        if limit is None or asked <= limit:
            return asked
        if rulename not in said:
            said.add(rulename)
            say(
                f"{rulename}: asks for {asked} minutes, and gets the {limit} that its SLURM partition allows; if its "
                f"jobs end as TIMEOUT, name another slurm_partition in the profile, or see docs/cluster.md"
            )
        return limit

    return minutes_of_job


def cores_per_gpu(cores: int | None, gpus: int | None) -> int:
    """The share of the cores that each job on a GPU computes with.

    Args:
        cores: Of the run (`--cores`); None on a cluster, where each job has cores of its own.
        gpus: Of the run (`--resources gpu=4`); None where there is no limit.
    """
    return max(1, (cores or _CORES_ON_A_CLUSTER) // (gpus or 1))


def parts_ahead(setting: int | None, cores: int | None, gpus: int | None) -> int:
    """How many parts may wait on the disk at a time.

    Args:
        setting: `preprocess.parts_ahead`; None: as many as keep every GPU busy.
        cores: Of the run (`--cores`); None on a cluster.
        gpus: Of the run (`--resources gpu=4`); None where there is no limit.
    """
    if setting is not None:
        return setting
    if cores is None:
        return _PARTS_ON_A_CLUSTER
    return (gpus or 1) + 2


def counted_cores(cores: int | None, gpus: int | None) -> int:
    """The cores that Snakemake counts for a job on a GPU.

    Snakemake holds no core free for a job that needs several: all preprocessing that is ready would go before a job
    that takes the whole machine, and a GPU would wait for the last of it. So on one machine inference counts as one
    core; it computes with its share (`cores_per_gpu`) all the same. On a cluster a job has its cores for itself.
    """
    return 1 if cores else cores_per_gpu(cores, gpus)


def computing_threads(are_set: bool, share: int) -> Callable[..., int]:
    """How many threads a job on a GPU computes with.

    Args:
        are_set: Whether `--set-threads` names the rule: then as many as that says.
        share: `cores_per_gpu`, otherwise.

    Returns:
        A function for a rule's `resources`.
    """
    return lambda wildcards, threads: threads if are_set else share
