from .errors import JobCancelled, JobsError, SchedulerClosed, SchedulerFull
from .job import Job
from .scheduler import Scheduler

__version__ = "0.1.0"
