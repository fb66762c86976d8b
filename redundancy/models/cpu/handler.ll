; The handler through which XLA calls @kernel, a function of kernels.py; handler.py fills in the names that begin with a dollar.
;
; It cuts the batch into parts, asks XLA's thread pool for helpers, and takes parts itself until none is left, so that it never
; waits for a helper that has not begun. Parts, and the order in which their sums are added, depend on the batch alone.
;
; Offsets in the handler's frame are those of the structs in xla/ffi/api/c_api.h on 64-bit machines, of the versions that
; handler.py names. %state is: 0 next part, 8 parts done, 16 users of this memory, 24 parts, 32 images, 40 first and 48 second
; input, 56 output, 64 partial sums or null.

declare ptr @calloc(i64, i64)
declare void @free(ptr)
declare i32 @sched_yield()

define internal void @work(ptr %state) {
entry:
  %parts.at = getelementptr i8, ptr %state, i64 24
  %images.at = getelementptr i8, ptr %state, i64 32
  %x.at = getelementptr i8, ptr %state, i64 40
  %y.at = getelementptr i8, ptr %state, i64 48
  %out.at = getelementptr i8, ptr %state, i64 56
  %partial.at = getelementptr i8, ptr %state, i64 64
  %done.at = getelementptr i8, ptr %state, i64 8
  %parts = load i64, ptr %parts.at
  %images = load i64, ptr %images.at
  %x = load ptr, ptr %x.at
  %y = load ptr, ptr %y.at
  %out = load ptr, ptr %out.at
  %partial = load ptr, ptr %partial.at
  %summed = icmp ne ptr %partial, null
  %part.first = atomicrmw add ptr %state, i64 1 acq_rel
  %some = icmp slt i64 %part.first, %parts
  br i1 %some, label %start, label %nothing
nothing:
  ret void
start:
  %scratch = call ptr @calloc(i64 1, i64 $scratch)
  br label %compute
compute:
  %part = phi i64 [ %part.first, %start ], [ %part.next, %compute ]
  %begin = mul i64 %part, %images
  %first = sdiv i64 %begin, %parts
  %finish = add i64 %begin, %images
  %last = sdiv i64 %finish, %parts
  %offset = mul i64 %part, $partial
  %own = getelementptr i8, ptr %partial, i64 %offset
  %target = select i1 %summed, ptr %own, ptr %out
  call void @kernel(ptr %x, ptr %y, ptr %target, ptr %scratch, i64 %first, i64 %last)
  %count = atomicrmw add ptr %done.at, i64 1 acq_rel
  %part.next = atomicrmw add ptr %state, i64 1 acq_rel
  %left = icmp slt i64 %part.next, %parts
  br i1 %left, label %compute, label %end
end:
  call void @free(ptr %scratch)
  ret void
}

define internal void @release(ptr %state) {
entry:
  %users.at = getelementptr i8, ptr %state, i64 16
  %users = atomicrmw sub ptr %users.at, i64 1 acq_rel
  %last = icmp eq i64 %users, 1
  br i1 %last, label %free, label %end
free:
  %partial.at = getelementptr i8, ptr %state, i64 64
  %partial = load ptr, ptr %partial.at
  call void @free(ptr %partial)
  call void @free(ptr %state)
  br label %end
end:
  ret void
}

define internal void @help(ptr %state) {
entry:
  call void @work(ptr %state)
  call void @release(ptr %state)
  ret void
}

define internal void @add_up(ptr %partial, ptr %out, i64 %parts) {
entry:
  br label %part.head
part.head:
  %part = phi i64 [ 0, %entry ], [ %part.next, %part.end ]
  %more = icmp slt i64 %part, %parts
  br i1 %more, label %part.body, label %end
part.body:
  %fresh = icmp eq i64 %part, 0
  %offset = mul i64 %part, $partial
  %own = getelementptr i8, ptr %partial, i64 %offset
  br label %number.head
number.head:
  %number = phi i64 [ 0, %part.body ], [ %number.next, %number.body ]
  %within = icmp slt i64 %number, $partial
  br i1 %within, label %number.body, label %part.end
number.body:
  %from = getelementptr i8, ptr %own, i64 %number
  %to = getelementptr i8, ptr %out, i64 %number
  %value = load <$lanes x float>, ptr %from, align 4
  %old = load <$lanes x float>, ptr %to, align 4
  %before = select i1 %fresh, <$lanes x float> zeroinitializer, <$lanes x float> %old
  %sum = fadd <$lanes x float> %before, %value
  store <$lanes x float> %sum, ptr %to, align 4
  %number.next = add i64 %number, $vector
  br label %number.head
part.end:
  %part.next = add i64 %part, 1
  br label %part.head
end:
  ret void
}

define ptr @handler(ptr %frame) {
entry:
  %asked = alloca [32 x i8], align 8
  %threads.at = alloca i64, align 8
  %schedule = alloca [40 x i8], align 8
  %extension.at = getelementptr i8, ptr %frame, i64 8
  %extension = load ptr, ptr %extension.at
  %extended = icmp ne ptr %extension, null
  br i1 %extended, label %kind, label %stage
kind:
  %kind.at = getelementptr i8, ptr %extension, i64 8
  %kind.is = load i32, ptr %kind.at
  %metadata.asked = icmp eq i32 %kind.is, 1
  br i1 %metadata.asked, label %metadata, label %stage
metadata:
  %metadata.at = getelementptr i8, ptr %extension, i64 24
  %metadata.is = load ptr, ptr %metadata.at
  %major.at = getelementptr i8, ptr %metadata.is, i64 24
  %minor.at = getelementptr i8, ptr %metadata.is, i64 28
  %traits.at = getelementptr i8, ptr %metadata.is, i64 32
  store i32 $major, ptr %major.at
  store i32 $minor, ptr %minor.at
  store i32 0, ptr %traits.at
  ret ptr null
stage:
  %stage.at = getelementptr i8, ptr %frame, i64 32
  %stage.is = load i32, ptr %stage.at
  %execute = icmp eq i32 %stage.is, 3
  br i1 %execute, label %begin, label %nothing
nothing:
  ret ptr null
begin:
  %api.at = getelementptr i8, ptr %frame, i64 16
  %api = load ptr, ptr %api.at
  %context.at = getelementptr i8, ptr %frame, i64 24
  %context = load ptr, ptr %context.at
  %inputs.at = getelementptr i8, ptr %frame, i64 72
  %inputs = load ptr, ptr %inputs.at
  %outputs.at = getelementptr i8, ptr %frame, i64 112
  %outputs = load ptr, ptr %outputs.at
  %x.buffer = load ptr, ptr %inputs
  %y.slot = getelementptr i8, ptr %inputs, i64 8
  %y.buffer = load ptr, ptr %y.slot
  %out.buffer = load ptr, ptr %outputs
  %x.data = getelementptr i8, ptr %x.buffer, i64 24
  %x = load ptr, ptr %x.data
  %y.data = getelementptr i8, ptr %y.buffer, i64 24
  %y = load ptr, ptr %y.data
  %out.data = getelementptr i8, ptr %out.buffer, i64 24
  %out = load ptr, ptr %out.data
  %dims.at = getelementptr i8, ptr %x.buffer, i64 40
  %dims = load ptr, ptr %dims.at
  %images = load i64, ptr %dims
  %few = icmp slt i64 %images, $parts
  %parts = select i1 %few, i64 %images, i64 $parts

  %state = call ptr @calloc(i64 1, i64 72)
  %bytes = mul i64 %parts, $partial
  %summed = icmp ne i64 %bytes, 0
  br i1 %summed, label %partials, label %fill
partials:
  %made = call ptr @calloc(i64 %parts, i64 $partial)
  br label %fill
fill:
  %partial = phi ptr [ null, %begin ], [ %made, %partials ]
  %users.at = getelementptr i8, ptr %state, i64 16
  %parts.at = getelementptr i8, ptr %state, i64 24
  %images.at = getelementptr i8, ptr %state, i64 32
  %x.at = getelementptr i8, ptr %state, i64 40
  %y.at = getelementptr i8, ptr %state, i64 48
  %out.at = getelementptr i8, ptr %state, i64 56
  %partial.at = getelementptr i8, ptr %state, i64 64
  store i64 %parts, ptr %parts.at
  store i64 %images, ptr %images.at
  store ptr %x, ptr %x.at
  store ptr %y, ptr %y.at
  store ptr %out, ptr %out.at
  store ptr %partial, ptr %partial.at

  %asked.extension = getelementptr i8, ptr %asked, i64 8
  %asked.context = getelementptr i8, ptr %asked, i64 16
  %asked.result = getelementptr i8, ptr %asked, i64 24
  store i64 32, ptr %asked
  store ptr null, ptr %asked.extension
  store ptr %context, ptr %asked.context
  store ptr %threads.at, ptr %asked.result
  store i64 1, ptr %threads.at
  %threads.function.at = getelementptr i8, ptr %api, i64 144
  %threads.function = load ptr, ptr %threads.function.at
  %threads.error = call ptr %threads.function(ptr %asked)
  %threads.failed = icmp ne ptr %threads.error, null
  br i1 %threads.failed, label %alone, label %several
alone:
  call void @forget(ptr %api, ptr %threads.error)
  br label %several
several:
  %threads.told = load i64, ptr %threads.at
  %threads = select i1 %threads.failed, i64 1, i64 %threads.told
  %crowded = icmp slt i64 %threads, %parts
  %workers = select i1 %crowded, i64 %threads, i64 %parts
  store i64 %workers, ptr %users.at
  br label %helper.head
helper.head:
  %worker = phi i64 [ 1, %several ], [ %worker.next, %helper.end ]
  %wanted = icmp slt i64 %worker, %workers
  br i1 %wanted, label %helper.ask, label %own
helper.ask:
  %schedule.extension = getelementptr i8, ptr %schedule, i64 8
  %schedule.context = getelementptr i8, ptr %schedule, i64 16
  %schedule.task = getelementptr i8, ptr %schedule, i64 24
  %schedule.data = getelementptr i8, ptr %schedule, i64 32
  store i64 40, ptr %schedule
  store ptr null, ptr %schedule.extension
  store ptr %context, ptr %schedule.context
  store ptr @help, ptr %schedule.task
  store ptr %state, ptr %schedule.data
  %schedule.function.at = getelementptr i8, ptr %api, i64 136
  %schedule.function = load ptr, ptr %schedule.function.at
  %schedule.error = call ptr %schedule.function(ptr %schedule)
  %schedule.failed = icmp ne ptr %schedule.error, null
  br i1 %schedule.failed, label %helper.refused, label %helper.end
helper.refused:
  call void @forget(ptr %api, ptr %schedule.error)
  %unused = atomicrmw sub ptr %users.at, i64 1 acq_rel
  br label %helper.end
helper.end:
  %worker.next = add i64 %worker, 1
  br label %helper.head
own:
  call void @work(ptr %state)
  %done.at = getelementptr i8, ptr %state, i64 8
  br label %wait
wait:
  %done = load atomic i64, ptr %done.at acquire, align 8
  %finished = icmp eq i64 %done, %parts
  br i1 %finished, label %together, label %yield
yield:
  %ignored = call i32 @sched_yield()
  br label %wait
together:
  br i1 %summed, label %add, label %end
add:
  call void @add_up(ptr %partial, ptr %out, i64 %parts)
  br label %end
end:
  call void @release(ptr %state)
  ret ptr null
}

define internal void @forget(ptr %api, ptr %error) {
entry:
  %asked = alloca [24 x i8], align 8
  %asked.extension = getelementptr i8, ptr %asked, i64 8
  %asked.error = getelementptr i8, ptr %asked, i64 16
  store i64 24, ptr %asked
  store ptr null, ptr %asked.extension
  store ptr %error, ptr %asked.error
  %destroy.at = getelementptr i8, ptr %api, i64 64
  %destroy = load ptr, ptr %destroy.at
  call void %destroy(ptr %asked)
  ret void
}
