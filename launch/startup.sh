# shellcheck shell=sh disable=SC2154
# Runs on each VM from its start, as root: deletes the slice if no launcher starts a program within idle_s seconds, and in any
# case after left_s seconds. The launcher inserts lines before these that set both variables and define `delete`.
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
