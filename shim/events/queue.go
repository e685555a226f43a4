// Package events brings the events of containers to containerd.
//
// One queue keeps their order. It outlives containerd: what cannot be delivered waits, with back-off, until containerd is back. Its
// memory is bounded; where events must be dropped the oldest go, because the newest tell the state that counts.
package events

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const (
	// capacity bounds the queue. At some 300 bytes per event it is well below one megabyte.
	capacity = 2048
	// retryMin and retryMax bound the pauses between attempts to deliver.
	retryMin = 50 * time.Millisecond
	retryMax = 5 * time.Second
	// idle is how long the connection is kept after the last event: an idle shim holds none.
	idle = 10 * time.Second
)

// publisher delivers one event. An error of class errdefs.ErrUnavailable means that containerd is away: try again.
type publisher interface {
	publish(ctx context.Context, event *types.Envelope) error
	// rest releases what is only needed while events flow.
	rest()
}

// Queue delivers events one after the other.
type Queue struct {
	namespace string
	publisher publisher
	log       *log.Entry
	wake      chan struct{} // has a slot; never closed
	closing   chan struct{} // closed by Close
	stop      context.CancelCauseFunc
	done      chan struct{} // closed when the worker has ended

	mu      sync.Mutex // guards what follows
	waiting []*types.Envelope
	dropped int
	closed  bool
}

// New starts a queue for the events of namespace. See Config for where they go.
func New(ctx context.Context, namespace string, config Config) *Queue {
	return start(ctx, namespace, config.publisher())
}

func start(ctx context.Context, namespace string, publisher publisher) *Queue {
	ctx, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	q := &Queue{
		namespace: namespace,
		publisher: publisher,
		log:       log.G(ctx),
		wake:      make(chan struct{}, 1),
		closing:   make(chan struct{}),
		stop:      stop,
		done:      make(chan struct{}),
	}
	go q.run(ctx)
	return q
}

// Send queues an event of containerd's api/events. It never blocks, and is safe at any time; what comes after Close is lost.
func (q *Queue) Send(event any) {
	envelope, err := q.envelope(event)
	if err != nil {
		q.log.WithError(err).Error("event cannot be sent")
		return
	}
	q.mu.Lock()
	if !q.closed {
		if len(q.waiting) == capacity {
			q.waiting = append(q.waiting[:0], q.waiting[1:]...)
			q.dropped++
		}
		q.waiting = append(q.waiting, envelope)
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Close delivers what is queued and ends the worker. When ctx ends first, the rest is lost and the error says how much.
func (q *Queue) Close(ctx context.Context) error {
	q.mu.Lock()
	if !q.closed {
		q.closed = true
		close(q.closing)
	}
	q.mu.Unlock()
	select {
	case <-q.done:
	case <-ctx.Done():
		q.stop(context.Cause(ctx))
		<-q.done
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := len(q.waiting); n > 0 {
		return fmt.Errorf("%d events were not delivered: %w", n, context.Cause(ctx))
	}
	return nil
}

func (q *Queue) run(ctx context.Context) {
	defer close(q.done)
	defer q.publisher.rest()
	resting := time.NewTimer(idle)
	defer resting.Stop()
	pause := retryMin
	for {
		event, dropped := q.first()
		if dropped > 0 {
			q.log.WithField("count", dropped).Warn("containerd was away too long: the oldest events were dropped")
		}
		if event == nil {
			select {
			case <-q.wake:
			case <-resting.C:
				q.publisher.rest()
			case <-q.closing:
				// Nothing is added after closing: an empty queue stays empty.
				if event, _ := q.first(); event == nil {
					return
				}
			case <-ctx.Done():
				return
			}
			continue
		}
		err := q.publisher.publish(ctx, event)
		if err == nil || !errdefs.IsUnavailable(err) {
			if err != nil {
				q.log.WithError(err).WithField("topic", event.Topic).Error("containerd refused an event")
			}
			q.remove(event)
			resting.Reset(idle)
			pause = retryMin
			continue
		}
		q.log.WithError(err).WithField("topic", event.Topic).Debug("event waits for containerd")
		select {
		case <-time.After(pause):
			pause = min(2*pause, retryMax)
		case <-ctx.Done():
			return
		}
	}
}

// first returns the oldest event, or nil, and how many were dropped since it was last asked.
func (q *Queue) first() (event *types.Envelope, dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	dropped, q.dropped = q.dropped, 0
	if len(q.waiting) > 0 {
		event = q.waiting[0]
	}
	return event, dropped
}

// remove takes event away unless it was dropped meanwhile.
func (q *Queue) remove(event *types.Envelope) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) > 0 && q.waiting[0] == event {
		q.waiting[0] = nil
		if q.waiting = q.waiting[1:]; len(q.waiting) == 0 {
			q.waiting = nil // the array goes, too
		}
	}
}

func (q *Queue) envelope(event any) (*types.Envelope, error) {
	topic, err := topicOf(event)
	if err != nil {
		return nil, err
	}
	body, err := typeurl.MarshalAnyToProto(event)
	if err != nil {
		return nil, fmt.Errorf("encode event %T: %w", event, err)
	}
	return &types.Envelope{Timestamp: timestamppb.Now(), Namespace: q.namespace, Topic: topic, Event: body}, nil
}

var errUnknownEvent = errors.New("not a task event")

// topicOf returns the topic as containerd's core/runtime names it.
func topicOf(event any) (string, error) {
	switch event.(type) {
	case *events.TaskCreate:
		return "/tasks/create", nil
	case *events.TaskStart:
		return "/tasks/start", nil
	case *events.TaskOOM:
		return "/tasks/oom", nil
	case *events.TaskExit:
		return "/tasks/exit", nil
	case *events.TaskDelete:
		return "/tasks/delete", nil
	case *events.TaskExecAdded:
		return "/tasks/exec-added", nil
	case *events.TaskExecStarted:
		return "/tasks/exec-started", nil
	case *events.TaskPaused:
		return "/tasks/paused", nil
	case *events.TaskResumed:
		return "/tasks/resumed", nil
	case *events.TaskCheckpointed:
		return "/tasks/checkpointed", nil
	}
	return "", fmt.Errorf("event %T: %w", event, errUnknownEvent)
}
