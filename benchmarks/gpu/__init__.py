"""What a GPU does for this project. `benchmarks/gpu.sh` measures it on a machine that has one."""
