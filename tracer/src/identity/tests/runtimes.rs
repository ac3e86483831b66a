//! Runtimes outside Kubernetes.

use super::check;

#[test]
fn docker() {
    check(
        r"
/docker/{A} | docker {A} | moby oci_linux.go, cgroupfs driver
/docker/{A}/ | docker {A} | the same with a trailing slash
docker/{A} | docker {A} | the same without a leading slash
//docker//{A} | docker {A} | the same with doubled slashes
/docker/{A}^/init.scope | docker {A} | systemd in a container, cgroupfs driver
/docker/{A}^/child | docker {A} | a cgroup made inside a container
/docker/{A}^/system.slice/ssh.service | docker {A} | systemd in a container
/system.slice/docker-{A}.scope | docker {A} | moby oci_linux.go, systemd driver
/system.slice/docker-{A}.scope^/init.scope | docker {A} | systemd in a container
/system.slice/docker-{A}.scope^/system.slice/cron.service | docker {A} | systemd in a container
/system.slice/docker-{A}.scope^/init | docker {A} | docker:dind's entry point moves its processes there
/docker.slice/docker-{A}.scope | docker {A} | dockerd --cgroup-parent=docker.slice
/web.slice/web-front.slice/docker-{A}.scope | docker {A} | docker run --cgroup-parent=web-front.slice
/mygroup/{A} | docker {A} | docker run --cgroup-parent=/mygroup
/my/own/group/{A} | docker {A} | docker run --cgroup-parent=/my/own/group
/limits.slice/{A} | docker {A} | the same, a slice with the cgroupfs driver
/actions_job/{A} | docker {A} | GitHub hosted runner
/azpl_job/{A} | docker {A} | Azure Pipelines hosted agent
/actions_job/{A}/kubepods/burstable/pod{S}/{B} | containerd {B} pod={S} in docker {A} | minikube on a GitHub runner
/docker/buildx/{A} | docker {A} | buildx, driver docker-container
/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope | docker {A} | moby oci_linux.go, rootless
/user.slice/user-1000.slice/user@1000.service/docker-{A}.scope | docker {A} | rootless without user.slice
/system.slice/system.slice:docker:{A} | docker {A} | literal OCI path, runtime without SystemdCgroup
/system.slice:docker:{A} | docker {A} | the same at the root
/docker/kata_{A} | docker {A} | kata RenameCgroupPath
/system.slice/docker.service/docker/{A} | docker {A} | dockerd with its own hierarchy below its service
/../docker-{A}.scope | docker {A} | seen from a cgroup namespace
/../../docker/{A} | docker {A} | seen from a cgroup namespace
/docker/{A}^/docker | docker {A} | dind, the parent directory inside
/docker/{A}/docker/{B} | docker {B} in docker {A} | docker in docker, cgroupfs
/docker/{A}/docker/{B}^/init.scope | docker {B} in docker {A} | the same, child
/system.slice/docker-{A}.scope/docker/{B} | docker {B} in docker {A} | docker in docker, systemd outside
/docker/{A}/docker/{B}/docker/{C} | docker {C} in docker {A} in docker {B} | three levels
/docker/{A}/system.slice/docker-{B}.scope | docker {B} in docker {A} | docker under systemd in docker
/docker/{A}/syscont-cgroup-root/docker/{B} | docker {B} in docker {A} | sysbox-runc libcontainer/cgroups
/docker/{A}^/syscont-cgroup-root/init.scope | docker {A} | sysbox-runc
/docker/{A}^/{B} | docker {A} | a bare id without a parent says nothing
/docker | host | moby: the parent, an ancestor of each container
/docker/ | host | the same
/docker/web | unknown | not an id
/docker/45312fe4a2b1 | unknown | a short id is never a directory
/docker/{A}0 | unknown | 65 digits
/docker/45312FE4A2B1C09D8E7F6A5B4C3D2E1F00112233445566778899AABBCCDDEEFF | unknown | docker writes lower case
/system.slice/docker-{A}x.scope | unknown | not hexadecimal
/system.slice/docker-web.scope | unknown | not an id
",
    );
}

#[test]
fn buildkit() {
    check(
        r"
/docker/buildkit/{N} | docker {N} | moby daemon_unix.go + buildkit executor/oci/spec.go, cgroupfs
/system.slice/docker-{N}.scope | docker {N} | the same, systemd driver
/system.slice/system.slice:docker:{N} | docker {N} | the same, literal
/buildkit/{N} | buildkit {N} ns=buildkit | buildkitd on the host
/ci/buildkit/{N} | buildkit {N} | buildkitd with defaultCgroupParent
/docker/{A}/buildkit/{N} | buildkit {N} ns=buildkit in docker {A} | buildx docker-container, cgroup v1
/docker/buildx/{A}/buildkit/{N} | buildkit {N} ns=buildkit in docker {A} | the same with buildx's parent
/system.slice/docker-{A}.scope/buildkit/{N} | buildkit {N} ns=buildkit in docker {A} | the same, systemd
/kubepods/burstable/pod{P}/{A}/buildkit/{N} | buildkit {N} ns=buildkit pod={P} in containerd {A} | buildkitd in a pod
/docker/buildkit | host | the parent
/docker/buildkit/short | unknown | not an id
/docker/{N} | unknown | without buildkit above it
",
    );
}

#[test]
fn containerd() {
    check(
        r"
/default/mycont | containerd mycont ns=default | containerd pkg/oci/spec.go, ctr run
/default/redis-1.2_x | containerd redis-1.2_x ns=default | the same, all separators
/default/a | containerd a ns=default | falco matchers.cpp
/default/{A} | containerd {A} ns=default | nerdctl with the cgroupfs manager
/default/mycont^/sub/deep | containerd mycont ns=default | child
/../default/mycont | containerd mycont ns=default | seen from a cgroup namespace
/k8s.io/{A} | containerd {A} ns=k8s.io | CRI without a cgroup parent
/k8s.io/my-test_container | containerd my-test_container ns=k8s.io | falco matchers.cpp, ctr -n k8s.io
/moby/{A} | containerd {A} ns=moby | ctr -n moby
/buildkit/tool | containerd tool ns=buildkit | ctr -n buildkit
/services.linuxkit/docker | containerd docker ns=services.linuxkit | LinuxKit service
/system.slice/nerdctl-{A}.scope | containerd {A} | nerdctl run_cgroup_linux.go
/user.slice/user-1000.slice/user@1000.service/user.slice/nerdctl-{A}.scope | containerd {A} | the same, rootless
/web.slice/nerdctl-{A}.scope^/init.scope | containerd {A} | nerdctl --cgroup-parent
/docker/{A}/default/{B} | containerd {B} ns=default in docker {A} | containerd in docker
/docker/{A}^/default/foo | docker {A} | a name inside a container proves nothing
/default | host | the namespace's directory
/default/foo.service | host | falco matchers.cpp: a unit
/default/foo.slice | host | falco matchers.cpp
/default/foo.scope | host | falco matchers.cpp
/default/-foo | unknown | no identifier of containerd
/default/foo..bar | unknown | no identifier of containerd
/my_very_long_namespace-1.5/test_container | unknown | falco matchers.cpp; any two names
/foo/default/bar | unknown | not at the root
",
    );
}

#[test]
fn podman() {
    check(
        r"
/machine.slice/libpod-{A}.scope | podman {A} | libpod getOCICgroupPath, systemd
/machine.slice/libpod-{A}.scope^/container | podman {A} | crun cgroup-systemd.c
/machine.slice/libpod-{A}.scope^/container/system.slice/sshd.service | podman {A} | systemd in a container, crun
/machine.slice/libpod-{A}.scope^/crun-exec | podman {A} | crun cgroup-setup.c
/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope | podman {A} | rootless, runc
/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{A}.scope^/container | podman {A} | rootless, crun
/libpod_parent/libpod-{A} | podman {A} | cgroupfs
/limits/libpod-{A} | podman {A} | cgroupfs, --cgroup-parent
/system.slice/web.service/libpod-payload-{A} | podman {A} | Quadlet, --cgroups=split
/system.slice/web.service/libpod-payload-{A}^/container | podman {A} | the same, crun
/user.slice/user-1000.slice/user@1000.service/app.slice/web.service/libpod-payload-{A} | podman {A} | Quadlet, rootless
/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope | podman {A} | pod, systemd
/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope^/container | podman {A} | pod, crun
/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_{B}.slice/libpod-{A}.scope | podman {A} | pod, rootless
/libpod_parent/{B}/libpod-{A} | podman {A} | pod, cgroupfs
/limits/{B}/libpod-{A} | podman {A} | pod, cgroupfs, custom parent
/machine.slice/machine.slice:libpod:{A} | podman {A} | literal OCI path
/docker/{A}/libpod_parent/libpod-{B} | podman {B} in docker {A} | podman in docker
/docker/{A}/libpod-{B} | podman {B} in docker {A} | the same with the root as parent
/machine.slice/libpod-{A}.scope/container/machine.slice/libpod-{B}.scope | podman {B} in podman {A} | podman in podman
/machine.slice/libpod-conmon-{A}.scope | excluded | libpod oci_conmon_linux.go
/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-conmon-{A}.scope | excluded | the same, rootless
/machine.slice/machine-libpod_pod_{B}.slice/libpod-conmon-{A}.scope | excluded | the same, in a pod
/machine.slice/machine.slice:libpod-conmon:{A} | excluded | literal OCI path
/system.slice/web.service/runtime | excluded | libpod oci_conmon_common.go, Quadlet's conmon
/user.slice/user-1000.slice/user@1000.service/app.slice/web.service/runtime | excluded | the same, rootless
/docker/{A}^/system.slice/web.service/runtime | docker {A} | Quadlet in docker: its conmon runs in that container
/machine.slice/libpod-{A}.scope^/runtime | podman {A} | a name inside a container
/runtime | unknown | not below a service
/libpod_parent/conmon | excluded | the same, cgroupfs
/libpod_parent/{B}/conmon | excluded | the same, in a pod
/limits/{B}/conmon | excluded | the same, in a pod with a custom parent
/machine.slice/machine-libpod_pod_{B}.slice | excluded | pod
/user.slice/user-1000.slice/user@1000.service/user.slice/user-libpod_pod_{B}.slice | excluded | pod, rootless
/libpod_parent/{B} | excluded | pod, cgroupfs
/user.slice/user-1000.slice/user@1000.service/user.slice/podman-pause-9141885347830502205.scope | excluded | libpod: rootless pause process
/user.slice/user-1000.slice/user@1000.service/user.slice/podman-12345.scope | excluded | older libpod
/docker/{A}^/libpod_parent/conmon | docker {A} | conmon in docker runs in that container
/docker/{A}^/libpod_parent | docker {A} | the same, its parent directory
/libpod_parent | host | the parent
/machine.slice/libpod-web.scope | unknown | not an id
/system.slice/podman.service | host | the API service
/system.slice/{A}.service | host | podman health check, a transient unit
/system.slice/container-web.service | host | podman generate systemd, conmon with --cgroups=no-conmon
",
    );
}

#[test]
fn bare_oci_runtimes() {
    check(
        r"
/system.slice/runc-web.scope | runc web | runc docs/systemd.md
/user.slice/user-1000.slice/user@1000.service/user.slice/runc-my-box_1.scope | runc my-box_1 | the same, rootless
/system.slice/runc-bpm-garden.scope | runc bpm-garden | Cloud Foundry bpm
/system.slice/crun-web.scope | crun web | crun cgroup-systemd.c
/system.slice/crun-web.scope^/container | crun web | the same, subgroup
/system.slice/youki-569d5ce3afe1074769f67.scope | youki 569d5ce3afe1074769f67 | youki systemd/manager.rs
/:youki:web | youki web | youki get_cgroup_path with cgroupfs
/system.slice/runc-{A}.scope | runc {A} | an id of 64 digits
/system.slice/runc-buildah-buildah2754860408.scope | runc buildah-buildah2754860408 | buildah with runc
/user.slice/user-1000.slice/user@1000.service/app.slice/crun-buildah-buildah1059824916.scope | crun buildah-buildah1059824916 | the same with crun, rootless
/docker/{A}/system.slice/runc-web.scope | runc web in docker {A} | runc under systemd in docker
/t1 | unknown | runc run t1 (cgroup v1, root)
/mycontainer | unknown | crun run mycontainer
/{A} | unknown | a bare id at the root, any runtime
/user.slice/user-1000.slice/foo | unknown | runc, beside the session (fs2/defaultpath.go)
/user.slice/user-1000.slice/session-3.scope/foo | unknown | runc, cgroup v1, below the session
/user.slice/user-1000.slice/user@1000.service/{A} | unknown | rootless podman without a manager: which runtime?
/system.slice/{A} | unknown | no cgroups path, started by a service
/system.slice/job.service/t1 | unknown | runc, cgroup v1, below its service
/system.slice/prefix-name.scope | unknown | runc with an OCI path system.slice:prefix:name
/a/b/c | unknown | anything
/openrc.job/t1 | unknown | runc, started by an OpenRC service
",
    );
}

#[test]
fn lxc() {
    check(
        r"
/lxc/web | lxc web | lxc 3.0, pattern lxc/%n
/lxc/web^/system.slice/ssh.service | lxc web | systemd inside
/lxc/100^/ns | lxc 100 | Proxmox
/lxc/100^/ns/init.scope | lxc 100 | Proxmox
/lxc.payload/web | lxc web | lxc 3.1
/lxc.payload.web | lxc web | lxc 4, LXD, Incus
/lxc.payload.web^/.lxc | lxc web | lxc cgfsng.c: attached processes
/lxc.payload.web^/.lxc-1 | lxc web | lxc cgfsng.c
/lxc.payload.web^/init.scope | lxc web | systemd inside
/lxc.payload.web-1 | lxc web-1 | a retry, or a name
/lxc.payload.proj_web | lxc proj_web | Incus, a project
/lxc.payload.web^/user.slice/user-0.slice/session-1.scope | lxc web | a login inside
/user.slice/user-1000.slice/user@1000.service/app.slice/run-u7.scope/lxc.payload.u1 | lxc u1 | unprivileged, systemd-run --scope
/user.slice/user-1000.slice/session-2.scope/lxc/u1 | lxc u1 | unprivileged, lxc 3.0
/custom/lxc.payload.web | lxc web | lxc.cgroup.dir
/lxc/web^/payload | lxc web | lxc.cgroup.pattern
/lxc.payload.web/docker/{A} | docker {A} in lxc web | docker in LXC
/lxc.payload.web/system.slice/docker-{A}.scope | docker {A} in lxc web | docker in LXC, systemd
/lxc/web/docker/{A}/docker/{B} | docker {B} in lxc web in docker {A} | dind in LXC
/lxc.payload.web/lxc.payload.inner | lxc inner in lxc web | nested LXC
/lxc.payload.node/kubepods/burstable/pod{P}/{A} | containerd {A} pod={P} in lxc node | k3s in LXC
/lxc.payload.web^/lxc.monitor.inner | lxc web | nested: the monitor runs in the outer container
/lxc.monitor.web | excluded | lxc cgfsng.c
/lxc.monitor.web/docker/{A} | excluded | nothing starts below a monitor
/lxc.monitor/100 | excluded | Proxmox
/lxc/web/monitor | excluded | lxc.cgroup.pattern
/lxc.pivot | excluded | lxc cgroup.h
/lxc | host | the parent
/lxc.payload | host | the parent
/lxc/foo.service | host | a unit
/lxc.payload. | unknown | no name
/system.slice/lxc.service | host | lxc-autostart
/system.slice/lxc-monitord.scope | host | lxc-monitord
/system.slice/lxcfs.service | host | lxcfs
/system.slice/snap.lxd.daemon.service | host | LXD
/system.slice/incus.service | host | Incus
",
    );
}

#[test]
fn machines() {
    check(
        r"
/machine.slice/machine-web.scope | systemd-nspawn web | systemd nspawn-register.c
/machine.slice/machine-my\x2dbox.scope | systemd-nspawn my-box | the same, escaped
/machine.slice/machine-my\x2dbox.scope^/payload | systemd-nspawn my-box | systemd nspawn-cgroup.c
/machine.slice/machine-my\x2dbox.scope^/payload/system.slice/ssh.service | systemd-nspawn my-box | the same
/machine.slice/machine-my\x2dbox.scope/supervisor | excluded | the same
/machine.slice/systemd-nspawn@web.service | systemd-nspawn web | systemd units/systemd-nspawn@.service.in
/machine.slice/systemd-nspawn@web.service^/payload/init.scope | systemd-nspawn web | the same
/machine.slice/systemd-nspawn@my-box.service^/payload | systemd-nspawn my-box | the same, not escaped
/machine.slice/systemd-nspawn@web.service/supervisor | excluded | the same
/system.slice/systemd-nspawn@web.service^/payload | systemd-nspawn web | older unit, without machine.slice
/machine.slice/machine-web.scope/payload/system.slice/docker-{A}.scope | docker {A} in systemd-nspawn web | docker in nspawn
/docker/{A}^/machine.slice/machine-web.scope/supervisor | docker {A} | nspawn in docker: its supervisor runs in the docker container
/machine.slice/machine-lxc\x2d2293906\x2dlibvirt\x2dcontainer.scope^/libvirt | libvirt-lxc libvirt-container | falco libvirt_lxc.cpp
/machine.slice/machine-lxc\x2d12345\x2ddemo.scope | libvirt-lxc demo | libvirt docs/cgroups.rst
/machine.slice/machine-lxc\x2ddemo.scope | libvirt-lxc demo | older libvirt
/machine.slice/machine-lxc\x2d50642\x2dk8s\x2dcp.scope^/libvirt/system.slice/crio.service | libvirt-lxc k8s-cp | CRI-O in libvirt LXC
/machine/demo.libvirt-lxc | libvirt-lxc demo | libvirt without systemd
/machine.slice/demo.libvirt-lxc | libvirt-lxc demo | libvirt on Fedora 19
/libvirt/lxc/demo | libvirt-lxc demo | libvirt before 1.0.5
/machine.slice/machine-qemu\x2d1\x2dvm.scope | host | libvirt docs/cgroups.rst
/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator | host | the same
/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/vcpu0 | host | the same
/machine.slice/machine-qemu\x2dvm.scope | host | older libvirt
/machine.slice/machine-xen\x2d3\x2dvm.scope | host | libvirt, Xen
/machine.slice/machine-ch\x2d3\x2dvm.scope | host | libvirt, Cloud Hypervisor
/machine/demo.libvirt-qemu/vcpu1 | host | libvirt without systemd
/libvirt/qemu/demo | host | libvirt before 1.0.5
/machine.slice/systemd-vmspawn@vm.service/x | host | systemd 256
/machine.slice | host | the slice
/machine.slice/machine-.scope | unknown | no name
/machine.slice/machine-a\x2.scope | unknown | a damaged escape
/machine.slice/machine-a\x2fb.scope | unknown | a slash is in no name
/system.slice/systemd-machined.service | host | the daemon
",
    );
}

#[test]
fn orchestrators() {
    check(
        r"
/nomad.slice/share.slice/{U}.web.scope | nomad {U}.web | nomad cgroupslib/editor.go, cgroup v2
/nomad.slice/reserve.slice/{U}.my-task.scope | nomad {U}.my-task | the same
/nomad.slice/{U}.web.scope | nomad {U}.web | nomad 1.3
/nomad.slice/share.slice/{U}.web.scope^/sub | nomad {U}.web | child
/batch.slice/share.slice/{U}.web.scope | nomad {U}.web | cgroup_parent = batch.slice
/nomad/{U}.web | nomad {U}.web | the same, cgroup v1
/nomad/reserve/{U}.web | nomad {U}.web | cgroup v1, cpuset
/nomad/share/{U}.web | nomad {U}.web | cgroup v1
/nomad.slice/share.slice/docker-{A}.scope | docker {A} | nomad's docker driver
/nomad/reserved/{U}-web | nomad {U}-web | nomad 1.2, cpuset_manager_v1.go
/nomad/{U} | nomad {U} | nomad 1.1, executor_linux.go
/nomad.slice | host | the slice
/nomad.slice/share.slice | host | the slice
/nomad/share | host | tasks without cores
/nomad/shared | host | tasks without cores
/nomad.slice/share.slice/{U}..scope | unknown | no task
/other/{U}.web | unknown | not below nomad
/other/{U} | unknown | not below nomad
/garden/{G} | garden {G} | guardian cgroup_path.go, Diego's handle
/system.slice/garden.service/garden/{G} | garden {G} | Cloud Foundry
/system.slice/garden.service/garden/good/{G} | garden {G} | guardian constants.go
/garden/bad/{G}^/init | garden {G} | guardian cgroup_manager_linux.go
/garden/{U} | garden {U} | Concourse
/system.slice/runc-bpm-garden.scope/garden/good/{G} | garden {G} in runc bpm-garden | Cloud Foundry with bpm
/garden | host | the parent
/garden/good | host | the parent
/other/{G} | unknown | not below garden
/ecs/{T}/{A} | docker {A} | amazon-ecs-agent, EC2, cgroup v1
/ecs/{U}/{A} | docker {A} | the same, older task ids
/ecs/cluster/{T}/{A} | docker {A} | task ids with the cluster's name
/ecstasks.slice/ecstasks-{T}.slice/docker-{A}.scope | docker {A} | amazon-ecs-agent, EC2, cgroup v2
/ecs/{T}/{T}-1234567890 | ecs {T}-1234567890 | Fargate
/ecs/{T}/{T}-1234567890^/sub | ecs {T}-1234567890 | child
/ecs/cluster/{T}/{T}-1234567890 | ecs {T}-1234567890 | Fargate, task ids with the cluster's name
/ecs/{T} | excluded | the task
/ecs/cluster/{T} | excluded | the task, below its cluster
/ecs/cluster | host | the cluster
/ecstasks.slice/ecstasks-{T}.slice | excluded | the task
/ecs | host | the parent
/ecs/{T}/{S}-1234567890 | unknown | another task's number
/ecs/{T}/{T}-12ab | unknown | no number
/kata_overhead/{A} | excluded | kata sandbox.go
/kata_overhead/kubepods/burstable/pod{P}/{A} | excluded | the same, the orchestrator's path below it
/kata-overhead.slice/runtime-rs-kata_sandboxed_pod.scope | excluded | kata runtime-rs
",
    );
}
