"""The node: engine, runtime, control plane, command line, local networks, simulator. It may import every other room."""
