//! healer as the first process of a PID namespace, as in a container. Needs root.
