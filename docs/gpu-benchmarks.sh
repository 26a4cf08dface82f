#!/usr/bin/env bash
# Measures flaxcifar on an NVIDIA GPU beside PyTorch, without TensorFlow; rows go to benchmarks/results.
#
#   docs/gpu-benchmarks.sh DATASET DIR [PYTHON]
#
# DATASET is cifar10, cifar100 or folder, DIR has its archive or folder.
set -euo pipefail
if [ $# -lt 2 ]; then
  sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
data=(--dataset "$1" --data-dir "$2")
python=${3:-python}
cd "$(dirname "$0")/.."

"$python" -m flaxcifar doctor
"$python" -m benchmarks.throughput --models vgg16,resnet --precision bfloat16,float32 --batch 512 \
  --frameworks flaxcifar,flaxcifar-scan,torch,torch-compile "${data[@]}"
"$python" -m benchmarks.throughput --models speednet --precision bfloat16 --batch 2000 \
  --frameworks flaxcifar,flaxcifar-scan,torch,torch-compile "${data[@]}"
"$python" -m benchmarks.input_pipeline --models vgg16,crcv --frameworks flaxcifar "${data[@]}"
"$python" -m benchmarks.time_to_accuracy --configs speed94,speed96 --seeds 3 \
  --accuracies 0.9,0.94,0.96 "${data[@]}"
"$python" -m benchmarks.startup --frameworks flaxcifar "${data[@]}"
"$python" -m benchmarks.page
