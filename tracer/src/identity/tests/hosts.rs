//! Paths of hosts that hold no container. None may be taken for one.

use super::check;

#[test]
fn host_services_and_units() {
    check(
        r"
{0} | host | the root, empty
/ | host | the root
// | host | the root
/.. | host | the root of an outer namespace
/../../ | host | the same
/init.scope | host | systemd
/init.scope/x | host | below systemd itself
/system.slice | host | systemd
/user.slice | host | systemd
/-.slice | host | systemd
/system.slice/sshd.service | host | a service
/system.slice/ssh@0-10.0.0.1:22-10.0.0.2:5000.service | host | a socket-activated service
/system.slice/docker.service | host | dockerd
/system.slice/docker.socket | host | dockerd
/system.slice/docker.service/x | host | below dockerd
/system.slice/containerd.service | host | containerd
/system.slice/k3s.service | host | k3s
/system.slice/rke2-server.service | host | RKE2
/system.slice/snap.microk8s.daemon-kubelite.service | host | MicroK8s
/system.slice/systemd-udevd.service/udev | host | systemd 253, delegated
/system.slice/systemd-udevd.service | host | systemd
/system.slice/systemd-journald.service | host | systemd
/system.slice/systemd-nspawn.service | host | no machine
/system.slice/docker-registry-cache-proxy.service | host | a name like a runtime's prefix and an id
/system.slice/docker-{A}.service | host | a service is no scope
/system.slice/docker-{A}.mount | host | a mount is no scope
/system.slice/libpod-{A}.mount | host | a mount is no scope
/system.slice/cri-containerd-{A}.socket | host | a socket is no scope
/system.slice/var-lib-docker-overlay2-{A}-merged.mount | host | docker's overlay mounts
/system.slice/var-lib-docker-overlay2-{A}-merged.mount/{B} | host | below a mount
/system.slice/run-docker-runtime\x2drunc-moby-{A}-runc.kyW0SO.mount | host | docker health checks
/system.slice/run-containerd-io.containerd.runtime.v2.task-k8s.io-{A}-rootfs.mount | host | containerd
/system.slice/run-containerd-io.containerd.grpc.v1.cri-sandboxes-{A}-shm.mount | host | containerd
/system.slice/var-lib-containers-storage-overlay-{A}-merged.mount | host | podman
/system.slice/dev-disk-by\x2duuid-{U}.swap | host | swap
/system.slice/boot.mount | host | a mount
/system.slice/system-getty.slice/getty@tty1.service | host | an instance
/system.slice/system-systemd\x2dfsck.slice | host | a slice
/system.slice/dbus.service | host | D-Bus
/system.slice/libvirtd.service | host | libvirt
/system.slice/podman.socket | host | podman
/system.slice/buildkit.service | host | buildkitd
/system.slice/garden.service | host | Cloud Foundry
/system.slice/nomad.service | host | Nomad
/system.slice/ecs.service | host | ECS agent
/system.slice/nix-daemon.service/nix-build-uid-30001 | host | Nix sandbox
/openrc/sshd | host | OpenRC, cgroup v1
/openrc.sshd | host | OpenRC, cgroup v2
/custom-{A}.slice | host | a slice
/system.slice/web.service/.control | host | systemd service.c, where ExecReload runs
/user.slice/user-1000.slice/user@1000.service/app.slice/web.service/.control | host | the same, of a user
/system.slice/system-dbus\x2d:1.4\x2dorg.fedoraproject.SetroubleshootPrivileged.slice | host | D-Bus activation
/system.slice/var-lib-docker-containers-{A}-mounts-shm.mount | host | older docker
/qemu.slice/100.scope | host | a virtual machine of Proxmox
/firecracker | host | jailer
/firecracker/{U} | host | jailer env.rs, a virtual machine
/firecracker/{U}/x | host | the same
/system.slice/slurmstepd.scope | host | Slurm
/system.slice/slurmstepd.scope/job_123/step_0/user/task_0 | unknown | Slurm; bare runtimes run in its steps
/slurm/uid_1000/job_1/step_0 | unknown | Slurm, cgroup v1
/podruntime/runtime | unknown | Talos, containerd's own
/podruntime/kubelet | unknown | Talos, a container of containerd: no name says so
",
    );
}

#[test]
fn users_and_desktops() {
    check(
        r"
/user.slice/user-1000.slice | host | logind
/user.slice/user-1000.slice/session-3.scope | host | logind
/user.slice/user-1000.slice/session-c1.scope | host | logind, greeter
/user.slice/user-1000.slice/user@1000.service | host | the user's systemd
/user.slice/user-1000.slice/user@1000.service/init.scope | host | the user's systemd
/user.slice/user-1000.slice/user@1000.service/app.slice | host | the user's systemd
/user.slice/user-1000.slice/user@1000.service/app.slice/docker.service | host | rootless dockerd
/user.slice/user-1000.slice/user@1000.service/session.slice/org.gnome.Shell@wayland.service | host | GNOME
/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-4711.scope | host | GNOME
/user.slice/user-1000.slice/user@1000.service/app.slice/app-flatpak-org.mozilla.firefox-4711.scope | host | Flatpak
/user.slice/user-1000.slice/user@1000.service/app.slice/flatpak-org.mozilla.firefox-4711.scope | host | older Flatpak
/user.slice/user-1000.slice/user@1000.service/app.slice/snap.firefox.firefox-{U}.scope | host | snapd
/user.slice/user-1000.slice/user@1000.service/snap.firefox.firefox.{U}.scope | host | older snapd
/system.slice/snap.lxd.hook.install-{U}.scope | host | snapd
/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-{U}.scope | host | a terminal
/user.slice/user-1000.slice/user@1000.service/tmux-spawn-{U}.scope | host | tmux
/user.slice/user-1000.slice/user@1000.service/app.slice/dbus-:1.2-org.gnome.Foo@0.service | host | D-Bus activation: two colons
/user.slice/user-1000.slice/user@1000.service/dbus.socket | host | D-Bus
/system.slice/run-u1.scope | host | systemd-run --scope
/system.slice/run-r4711aa0b8c9d4e5f8a7b6c5d4e3f2a1b.scope | host | systemd-run --scope
/system.slice/run-p4711-i4712.scope | host | systemd-run --scope, systemd 256
/user.slice/user-1000.slice/user@1000.service/app.slice/foo.scope | host | systemd-run --scope --unit=foo
/user.slice/user-1000.slice/user@1000.service/app.slice/run-u1.service | host | systemd-run
/user.slice/user-1000.slice/user@1000.service/app.slice/kitty-4711-0.scope | host | kitty
/user.slice/user-1000.slice/user@1000.service/app.slice/my-own.scope | host | systemd-run --user --scope --slice=app --unit=my-own
/user.slice/user-1000.slice/user@1000.service/session.slice/foo-bar.scope | host | the same, of a session
/user.slice/user-1000.slice/user@1000.service/app.slice/podman.service | host | rootless podman's API
/system.slice/docker-compose@web.service | host | a template of a service
/system.slice/docker-compose-web.scope | unknown | systemd-run --unit, or runc with an OCI path system.slice:docker:compose-web
/elogind | host | elogind
",
    );
}

#[test]
fn nothing_is_guessed_from_parts_of_names() {
    check(
        r"
/process_api/b9f425527a43b6043f9e92e710bf04cf | unknown | a sandbox, 32 digits
/system.slice/x{A} | unknown | more than an id
/system.slice/{A}x | unknown | more than an id
/foo/docker-{A} | unknown | no scope
/foo/docker-{A}.scope.d | unknown | no scope
/foo/cri-containerd-{A} | unknown | no scope
/foo/crio-{A}.stuff | unknown | opentelemetry tests, nobody writes it
/foo/{A}.aaaa | unknown | opentelemetry tests, nobody writes it
/podruntime/docker/kubepods/ac679f8a8319c8cf7d38e1adf263bc08d23zzzz | unknown | opentelemetry tests, not hexadecimal
/libpod-{A}extra | unknown | more than an id
/xlibpod-{A} | unknown | another prefix
/xlxc.payload.web | unknown | another prefix
/docker | host | no container
/docker/docker | host | no container
/conmon | unknown | no parent of podman's
/kubepods/podman | excluded | below kubepods it is a pod
",
    );
}
