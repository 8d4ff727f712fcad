#!/usr/bin/env bash
# One sweep on Slurm: Ray on every node of the allocation, the sweep on the first, everything stopped at the end.
#   sbatch deploy/slurm.sh --config configs/deit_small_imagenet.yaml --data /scratch/imagenet --name deit-small
# What follows the script's name goes to run_sweep.py. The folder it is submitted from (--storage too, unless it is a URI)
# must be seen by all nodes. MLFLOW_TRACKING_* and AWS_* of the submitting shell reach all nodes with the environment.
#SBATCH --job-name=vit-slim
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --export=ALL
set -euo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | awk 'NR == 1')
address=$(srun --nodes=1 --ntasks=1 --nodelist="$first" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000)) # two jobs on one node do not meet

# A token of this job's own: Ray refuses processes that do not have it.
RAY_AUTH_TOKEN=$(head --bytes=32 /dev/urandom | sha256sum | awk '{print $1}')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

# Ctrl-C's signal, 120 s before the job's time is up, has trainings write their states; the same with --resume NAME in
# place of --name goes on. It is for the driver alone: Ray's own processes would end at once.
end=$(SLURM_TIME_FORMAT=standard squeue --noheader --jobs="$SLURM_JOB_ID" --format=%e)
if [[ $end == *T* ]]; then SWEEP_UNTIL=$(($(date --date="$end" +%s) - 120)); fi # else the job has no end
export SWEEP_UNTIL=${SWEEP_UNTIL:-$(date --date="10 years" +%s)}

# Starts a head on the node that has the address and workers on the others, waits for all, runs the command on the head,
# and stops Ray everywhere when it ends.
# shellcheck disable=SC2016 # the shell on the head expands
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    ray symmetric-run --address "$address:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" -- \
    bash -c 'left=$((SWEEP_UNTIL - $(date +%s)))
        exec timeout --foreground --preserve-status --signal=INT "$((left > 1 ? left : 1))" "$@"' driver \
    python run_sweep.py --cluster "$address:$port" "$@"
