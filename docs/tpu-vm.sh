#!/usr/bin/env bash
# Installs and runs flaxcifar on all workers of the TPU VM or slice $NAME in $ZONE.
#
#   docs/tpu-vm.sh install            clone $REPOSITORY and install it, with libtpu
#   docs/tpu-vm.sh run ARGUMENTS      python -m flaxcifar.main ARGUMENTS, everywhere at once
#   docs/tpu-vm.sh recreate           delete the VM and create it as it was ($TYPE, $VERSION)
set -euo pipefail
: "${NAME:?name of the TPU VM}" "${ZONE:?its zone}"
TYPE=${TYPE:-v5litepod-4}
VERSION=${VERSION:-v2-alpha-tpuv5-lite}

everywhere() {
  gcloud compute tpus tpu-vm ssh "$NAME" --zone "$ZONE" --worker=all --command "$1"
}

case "${1:-}" in
  install)
    : "${REPOSITORY:?address of the git repository}"
    everywhere "git clone -q $(printf %q "$REPOSITORY") flaxcifar 2>/dev/null || git -C flaxcifar pull -q
      cd flaxcifar && python3 -m venv .venv && .venv/bin/pip install -q -e '.[tpu]'"
    ;;
  run)
    shift
    everywhere "cd flaxcifar && .venv/bin/python -m flaxcifar.main$(printf ' %q' "$@")"
    ;;
  recreate)
    gcloud compute tpus tpu-vm delete "$NAME" --zone "$ZONE" --quiet || true
    gcloud compute tpus tpu-vm create "$NAME" --zone "$ZONE" --accelerator-type "$TYPE" --version "$VERSION"
    ;;
  *)
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
