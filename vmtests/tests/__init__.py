"""Tests of the driver itself, without a virtual machine: `make driver`."""
