//! Kubernetes with every runtime, and what it is nested in.

use super::check;

#[test]
fn pods_of_the_systemd_driver() {
    check(
        r"
/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{P_}.slice/cri-containerd-{A}.scope | containerd {A} pod={P} | containerd getCgroupsPath
/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{P_}.slice/cri-containerd-{A}.scope | containerd {A} pod={P} | best effort
/kubepods.slice/kubepods-pod{P_}.slice/cri-containerd-{A}.scope | containerd {A} pod={P} | guaranteed
/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{S}.slice/cri-containerd-{A}.scope | containerd {A} pod={S} | static pod
/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{P_}.slice/cri-containerd-{A}.scope^/init.scope | containerd {A} pod={P} | systemd inside
/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{P_}.slice/crio-{A}.scope | cri-o {A} pod={P} | CRI-O systemd_linux.go
/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{P_}.slice/crio-{A}.scope^/container | cri-o {A} pod={P} | CRI-O with crun
/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{P_}.slice/docker-{A}.scope | docker {A} pod={P} | cri-dockerd
/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{P_}.slice/{A} | containerd {A} pod={P} | cgroupfs runtime under a slice
/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{P_}.slice/libpod-{A}.scope | podman {A} pod={P} | podman kube in a pod slice
/../../kubepods-burstable-pod{P_}.slice/cri-containerd-{A}.scope | containerd {A} pod={P} | seen from a cgroup namespace
/../cri-containerd-{A}.scope | containerd {A} | a sibling seen from a cgroup namespace
/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{P_}.slice/crio-conmon-{A}.scope | excluded | CRI-O, conmon_cgroup = pod
/system.slice/crio-conmon-{A}.scope | excluded | CRI-O, conmon_cgroup = system.slice
/system.slice:crio-conmon:{A} | excluded | literal OCI path
/system.slice/crio-{A}.scope | cri-o {A} | CRI-O without a cgroup parent
/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{P_}.slice | excluded | the pod
/kubepods.slice/kubepods-pod{P_}.slice | excluded | the pod, guaranteed
/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{P_}.slice/foo | unknown | a runtime of no known form
/kubepods.slice | host | kubelet
/kubepods.slice/kubepods-burstable.slice | host | kubelet
/kubelet.slice/kubelet-kubepods.slice | host | kubelet in kind
/system.slice/kubelet.service | host | kubelet
/system.slice/crio.service | host | CRI-O
",
    );
}

#[test]
fn pods_of_the_cgroupfs_driver() {
    check(
        r"
/kubepods/burstable/pod{P}/{A} | containerd {A} pod={P} | containerd getCgroupsPath
/kubepods/besteffort/pod{P}/{A} | containerd {A} pod={P} | the same
/kubepods/pod{P}/{A} | containerd {A} pod={P} | guaranteed
/kubepods/besteffort/pod{S}/{A} | containerd {A} pod={S} | cadvisor tests, static pod
/kubepods/besteffort/pod{P}/{A}^/child/deep | containerd {A} pod={P} | child
/kubepods/besteffort/pod{P}/crio-{A} | cri-o {A} pod={P} | CRI-O cgroupfs_linux.go
/kubepods/besteffort/pod{P}/crio-{A}^/container | cri-o {A} pod={P} | CRI-O with crun
/kubepods/pod{Q}/crio-{A}.scope | cri-o {A} pod={Q} | cadvisor tests
/kubepods/besteffort/pod123/docker-{A}.scope | docker {A} | tracee tests, no uid
/kubepods/besteffort/pod123/{A} | containerd {A} | tracee tests, no uid
/kubepods/besteffort/pod123/some:cri-containerd:{A} | containerd {A} | tracee tests
/kubepods/burstable/pod{P}/kata_{A} | containerd {A} pod={P} | kata RenameCgroupPath
/kubepods/burstable/pod{P}/kata_crio-{A} | cri-o {A} pod={P} | kata under CRI-O
/../../pod{P}/{A} | containerd {A} pod={P} | seen from a cgroup namespace
/kubepods/besteffort/pod{P}/crio-conmon-{A} | excluded | CRI-O cgroupfs_linux.go
/kubepods/besteffort/pod{P} | excluded | the pod
/kubepods/besteffort/pod{P}/ | excluded | the pod
/pod{P} | excluded | the pod, seen from a cgroup namespace
/kubepods | host | kubelet
/kubepods/besteffort | host | kubelet
/kubelet | host | kind
/podruntime/docker/kubepods | host | Docker Desktop
/podman | unknown | no pod
/podfoo | unknown | no pod
",
    );
}

#[test]
fn literal_oci_paths() {
    check(
        r"
/system.slice/containerd.service/kubepods-burstable-pod{P_}.slice:cri-containerd:{A} | containerd {A} pod={P} | falco libs#63, cgroup v1
/kubepods-burstable-pod{P_}.slice:cri-containerd:{A} | containerd {A} pod={P} | the same, cgroup v2
/kubepods-pod{P_}.slice:cri-containerd:{A}^/child | containerd {A} pod={P} | child
/kuberuntime/containerd/kubepods-pod{P_}:cri-containerd:{A} | containerd {A} pod={P} | opentelemetry-cpp tests
/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{P_}.slice/kubepods-burstable-pod{P_}.slice:cri-containerd:{A} | containerd {A} pod={P} | the same below its slice
/system.slice/k3s.service/kubepods-besteffort-pod{P_}.slice:cri-containerd:{A} | containerd {A} pod={P} | k3s
/system.slice/snap.microk8s.daemon-containerd.service/kubepods-besteffort-pod{P_}.slice:cri-containerd:{A} | containerd {A} pod={P} | MicroK8s
/kubepods-pod{P_}.slice:crio:{A} | cri-o {A} pod={P} | CRI-O
/a:cri-containerd:short | unknown | not an id
/a:b:{A} | unknown | not a prefix
/a:cri-containerd:{A}:x | unknown | four parts
",
    );
}

#[test]
fn nested() {
    check(
        r"
/docker/{A}/kubelet/kubepods/besteffort/pod{P}/{B} | containerd {B} pod={P} in docker {A} | kind, cgroupfs
/system.slice/docker-{A}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{P_}.slice/cri-containerd-{B}.scope | containerd {B} pod={P} in docker {A} | kind, systemd
/docker/{A}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{P_}.slice/cri-containerd-{B}.scope | containerd {B} pod={P} in docker {A} | kind, guaranteed
/docker/{A}/docker/{A}/kubelet/kubepods/besteffort/pod{P}/{B} | containerd {B} pod={P} in docker {A} in docker {A} | kind, cgroup v1 mounts
/machine.slice/libpod-{A}.scope/container/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{P_}.slice/cri-containerd-{B}.scope | containerd {B} pod={P} in podman {A} | kind on podman
/docker/{A}^/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{P_}.slice | docker {A} | kind: a pod's cgroup lies in the node's container
/docker/{A}^/kubelet.slice/kubelet.service | docker {A} | kind: kubelet
/docker/{A}^/system.slice/containerd.service | docker {A} | kind: containerd
/system.slice/docker-{A}.scope/kubepods/burstable/pod{P}/{B} | containerd {B} pod={P} in docker {A} | k3d
/kubepods/burstable/pod{P}/{A}/docker/{B} | docker {B} pod={P} in containerd {A} | docker in a pod
/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{P_}.slice/cri-containerd-{A}.scope/docker/{B} | docker {B} pod={P} in containerd {A} | the same, systemd
/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{P_}.slice/cri-containerd-{A}.scope/libpod_parent/libpod-{B} | podman {B} pod={P} in containerd {A} | podman in a pod
/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{P_}.slice/crio-{A}.scope/container/libpod_parent/libpod-{B}^/x | podman {B} pod={P} in cri-o {A} | the same, CRI-O
/kubepods/pod{P}/{A}/kubepods/besteffort/pod{Q}/{B} | containerd {B} pod={Q} in containerd {A} | a cluster in a pod: the nearest pod
/kubepods/pod{P}/{A}/kubepods/besteffort/pod{Q}/{B}/docker/{C} | docker {C} pod={Q} in containerd {A} in containerd {B} | three levels
/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{A}.scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{P_}.slice/cri-containerd-{B}.scope | containerd {B} pod={P} in docker {A} | kind, rootless
/user.slice/user-1000.slice/user@1000.service/k3s-rootless.service/kubepods/burstable/pod{P}/{A} | containerd {A} pod={P} | k3s rootless
/lxc/node/kubepods.slice/kubepods-pod{P_}.slice/crio-{A}.scope | cri-o {A} pod={P} in lxc node | CRI-O in LXC
",
    );
}
