# Holds one strace of the program to the rules that sync_discipline.sh states. Variables: name, db.
#
# A call that another thread interrupts appears twice, "<unfinished ...>" and "resumed". A write or a sync counts when
# it is done; a sync covers what was done before it began.

function fail(what) {
    printf "%s, line %d of the trace: %s\n    %s\n", name, NR, what, $0 > "/dev/stderr"
    failed = 1
    exit 1
}

function directory(path) {
    sub("/[^/]*$", "", path)
    return path
}

# The path that -y puts behind the first argument.
function path_of_fd(call) {
    if (match(call, /^[a-z0-9_]+\([0-9]+<[^>]*>/)) {
        call = substr(call, RSTART, RLENGTH)
        sub(/^[^<]*</, "", call)
        sub(/>$/, "", call)
        return call
    }
    return ""
}

# The n-th quoted argument.
function quoted(call, n,    parts) {
    split(call, parts, "\"")
    return parts[2 * n]
}

function is_ours(path) {
    return index(path, db "/") == 1 || path == db
}

function begin_sync(pid, path) {
    sync_covers[pid] = event
    syncs++
    if (path ~ /\/wal\/[0-9]+\.wal$/) {
        log_syncs_since_ack++
        log_syncs++
    }
}

function end_sync(pid, path) {
    synced[path] = sync_covers[pid]
    is_directory[path] ? directory_syncs++ : file_syncs++
}

function end_write(call, path, result) {
    # A mark (32 bytes) tells readers what is durable already; nothing depends on it.
    if (path ~ /\.wal$/ && result <= 32) return
    written[path] = event
}

function is_synced(path) {
    return !(path in written) || (path in synced && synced[path] >= written[path])
}

function names_are_synced(dir) {
    return !(dir in renamed) || (dir in synced && synced[dir] >= renamed[dir])
}

function acknowledge(    path) {
    for (path in written) {
        if (path ~ /\.wal$/ && !is_synced(path)) fail("an acknowledgement before the sync of " path)
    }
    # A manifest that is being published meanwhile only names what is durable already.
    if (!names_are_synced(db "/wal")) fail("an acknowledgement before the sync of a name")
    if (log_syncs_since_ack != 1) fail(log_syncs_since_ack " syncs of the log for one durable batch")
    log_syncs_since_ack = 0
    acknowledgements++
}

function rename_file(from, to) {
    if (!is_synced(from)) fail(from " gets its name before it is synced")
    # A manifest that is put by for a repair: nothing depends on that name.
    if (to ~ /\/PREVIOUS-[0-9]+$/) return
    if (to ~ /\/MANIFEST-[0-9]+$/) {
        if (!names_are_synced(db "/data")) fail("a manifest is published before the names of its files are synced")
        manifests++
    }
    delete written[from]
    delete written[to]
    renamed[directory(to)] = event
    is_directory[directory(to)] = 1
    renames++
}

function open_file(call, path) {
    if (call !~ /O_WRONLY|O_RDWR/ || path == db "/LOCK") return
    if (call !~ /O_EXCL/) fail("a file is opened for writing that may exist already")
    created++
}

{
    pid = $1
    call = $0
    sub(/^[0-9]+ +/, "", call)
    event++
    begins = ends = 1
    if (call ~ /<unfinished \.\.\.>$/) {
        unfinished[pid] = call
        ends = 0
    } else if (call ~ /^<\.\.\. /) {
        rest = call
        sub(/^<\.\.\. [a-z0-9_]+ resumed>/, "", rest)
        call = unfinished[pid]
        sub(/ *<unfinished \.\.\.>$/, "", call)
        call = call rest
        begins = 0
    }
    result = call
    sub(/^.*\) += /, "", result)
    result += 0
    operation = call
    sub(/\(.*/, "", operation)

    if (operation == "mmap") {
        if (call ~ /MAP_SHARED/) {
            if (call ~ /PROT_WRITE/) fail("a writable shared mapping")
            if (begins) mappings++
        }
    } else if (operation == "sync_file_range") {
        # A hint that makes nothing durable: only for a sealed file that grows, whose sync is still to come.
        if (path_of_fd(call) !~ /\/data\/[^\/]*\.tmp$/) fail("sync_file_range on something that is not a growing sealed file")
    } else if (operation == "msync") {
        fail("msync has no place here")
    } else if (operation == "openat") {
        if (begins && is_ours(quoted(call, 1))) open_file(call, quoted(call, 1))
    } else if (operation ~ /^rename|^link/) {
        if (begins && is_ours(quoted(call, 2))) rename_file(quoted(call, 1), quoted(call, 2))
    } else {
        path = path_of_fd(call)
        if (operation ~ /^f(data)?sync$/) {
            if (begins) begin_sync(pid, path)
            if (ends && result == 0) end_sync(pid, path)
        } else if (operation ~ /write/) {
            if (begins && call ~ /^write\(1<[^>]*>, "ACK /) acknowledge()
            if (ends && is_ours(path)) end_write(call, path, result)
        }
    }
}

END {
    if (failed) exit 1
    for (dir in renamed) {
        if (!names_are_synced(dir)) {
            printf "%s: the names in %s were never synced\n", name, dir > "/dev/stderr"
            exit 1
        }
    }
    if (acknowledgements) printf "%d acknowledgements, %d syncs of the log\n", acknowledgements, log_syncs
    printf "%d files created, %d given their final names, %d manifests; %d syncs of files, %d of directories; ", created, renames, manifests, file_syncs, directory_syncs
    printf "%d shared mappings, none writable\n", mappings
    if (renames == 0) {
        printf "%s: nothing was published; the trace is not what it should be\n", name > "/dev/stderr"
        exit 1
    }
}
