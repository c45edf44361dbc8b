"""ECGFounder's network of one lead, which is that of twelve with another first convolution."""

from ecgpipe.models.ecgfounder.network import Network as Network
from ecgpipe.models.ecgfounder.network import from_tensors as from_tensors
from ecgpipe.models.ecgfounder.network import read_checkpoint as read_checkpoint
