# Every command that people and CI run.

# What there is to run.
default:
    @just --list

# Run pods on both paths and say where the time went.
compare *ARGS:
    cargo run --release -- compare {{ARGS}}

# Every test; those that need a right or a peer that is missing say SKIP.
test:
    cargo test --workspace

# The runtime's tests on a kernel with cgroup v2 alone, and under systemd, in a virtual machine.
test-v2 *FILTERS:
    tests/vm/run {{FILTERS}}

# Kill strata-containerd under load so many times, and count what it lost.
test-durability KILLS="400":
    STRATA_DURABILITY={{KILLS}} cargo test -p containerd-layer --test durability -- --nocapture

# Format, lints and the omissions list, with warnings as errors.
check:
    cargo fmt --all -- --check
    cargo clippy --workspace --all-targets -- -D warnings

# The runtime's configuration under libFuzzer; findings stay in layers/runc-layer/fuzz/corpus.
fuzz SECONDS="60" *OPTIONS:
    layers/runc-layer/fuzz/run {{SECONDS}} {{OPTIONS}}

# One call of each hop, in process and over its wire.
bench-hops:
    cargo bench -p wire --bench hops

# strata-runc beside crun, runc and the kernel's limit, interleaved; as root.
bench-runtime ROUNDS="100":
    cargo bench -p runc-layer --bench runtime -- {{ROUNDS}}

# strata-containerd beside the real containerd, interleaved: runs, memory, bursts, pulls; as root.
bench-containerd ROUNDS="100":
    cargo build --release -p runc-layer
    cargo bench -p containerd-layer --bench containerd -- {{ROUNDS}}

# The same pod on Strata's paths and on an installed containerd, interleaved.
bench-pods PODS="40":
    cargo run --release -- compare --pods {{PODS}} --paths pre-1.24,direct,containerd

# Debian's programs that the tests meet: what CI installs.
peers:
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        docker.io containerd runc crun podman skopeo umoci docker-registry \
        containernetworking-plugins nftables iptables iproute2 busybox-static strace \
        qemu-system-x86 cpio g++ systemd dbus-daemon apparmor checkpolicy criu openssl
