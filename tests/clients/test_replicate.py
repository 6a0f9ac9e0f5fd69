"""Replicate's Python client."""

import httpx
import pytest
import replicate
from replicate.exceptions import ModelError, ReplicateError
from standardwebhooks.webhooks import Webhook


@pytest.fixture(scope="module")
def client(base, token):
    return replicate.Client(api_token=token, base_url=base)


def test_run_gives_the_output(client):
    assert client.run("dormouse/hello", input={"name": "Ada"}) == "Hello, Ada!"
    version = client.models.get("dormouse/hello").latest_version
    assert client.run(f"dormouse/hello:{version.id}", input={"name": "Bob"}) == "Hello, Bob!"


def test_an_iterator_comes_piece_by_piece(client):
    version = client.models.get("dormouse/reporter").latest_version
    assert list(client.run(version, input={"count": 3})) == [1, 2, 3]


def test_events_are_those_of_the_prediction(client):
    prediction = client.models.predictions.create("dormouse/reporter", input={"count": 2}, stream=True)
    events = list(prediction.stream())
    assert [event.data for event in events if event.event.value == "output"] == ["1", "2"]
    assert events[-1].event.value == "done" and all(event.id for event in events)


def test_a_stream_goes_on_after_the_last_event_seen(client):
    prediction = client.models.predictions.create("dormouse/reporter", input={"count": 3}, stream=True)
    prediction.wait()
    url = prediction.urls["stream"]
    whole = httpx.get(url).text
    rest = httpx.get(url, headers={"last-event-id": "2"}).text
    assert whole.endswith(rest) and whole != rest


def test_a_failure_is_a_model_error(client):
    with pytest.raises(ModelError) as caught:
        client.run("dormouse/failing", input={})
    assert caught.value.prediction.status == "failed"
    assert "wanted 3" in caught.value.prediction.error


def test_one_that_runs_is_canceled(client):
    prediction = client.models.predictions.create("dormouse/sleeper", input={})
    prediction.cancel()
    prediction.wait()
    assert prediction.status == "canceled"


def test_what_is_wrong_is_named(client):
    with pytest.raises(ReplicateError) as caught:
        client.models.predictions.create("dormouse/hello", input={})
    assert caught.value.status == 422 and "name" in caught.value.detail
    with pytest.raises(ReplicateError) as caught:
        client.models.get("dormouse/absent")
    assert caught.value.status == 404


def test_webhooks_are_signed(client, receiver):
    prediction = client.models.predictions.create(
        "dormouse/hello", input={"name": "Ada"}, webhook=receiver.url, webhook_events_filter=["completed"]
    )
    headers, body = receiver.next()
    told = Webhook(client.webhooks.default.secret().key).verify(body, headers)
    assert (told["id"], told["status"], told["output"]) == (prediction.id, "succeeded", "Hello, Ada!")


def test_a_deployment_moves_without_its_callers(client):
    version = client.models.get("dormouse/hello").latest_version.id
    made = client.deployments.create(
        name="clients", model="dormouse/hello", version=version, hardware="cpu", min_instances=0, max_instances=1
    )
    try:
        prediction = client.deployments.predictions.create("dormouse/clients", input={"name": "Ada"})
        prediction.wait()
        assert prediction.output == "Hello, Ada!"
        changed = client.deployments.update("dormouse", "clients", max_instances=2)
        assert changed.current_release.number == made.current_release.number + 1
    finally:
        assert client.deployments.delete("dormouse", "clients")
