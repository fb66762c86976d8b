# shellcheck shell=sh disable=SC2154
# On each VM from its start, as root: the slice is deleted if no launcher starts a program in idle_s seconds, and after left_s
# seconds. The lines before these set both, and define `delete`.
watch() {
    sleep "$idle_s"
    for job in "${homes:-/home}"/*/.launch/jobs/* /root/.launch/jobs/*; do
        if [ -e "$job" ]; then
            sleep "$((left_s - idle_s))"
            break
        fi
    done
    delete
}
watch </dev/null >/dev/null 2>&1 &
