"""Pulumi's ResourceProvider: each RPC decodes its request, has the work done elsewhere, and encodes the answer."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from google.protobuf.empty_pb2 import Empty
from grpc import StatusCode

import hostnet
from hostnet.lifecycle.crud import Operations, PartialError, State, Subject
from hostnet.lifecycle.host_access import HostAccess, MakePool
from hostnet.lifecycle.log import EngineLog
from hostnet.lifecycle.messages import check_failures
from hostnet.lifecycle.secrets import Given, input_secrets, output_secrets
from hostnet.resources import KINDS
from hostnet.resources.provider import PROVIDER, check_config, decode_config, diff_config, parse_config
from hostnet.resources.schema.model import has_unknown
from hostnet.resources.schema.values import Autoname, Checked, Failure
from hostnet.rpc import responses
from hostnet.rpc.codec import MalformedError, decode, encode, encode_again
from hostnet.rpc.failures import DETAILS_KEY, STATUS_OF, init_failed, status_of
from hostnet.rpc.functions import call, find_function, list_page
from hostnet.rpc.log import GrpcDelivery
from hostnet.rpc.protos import plugin_pb2, provider_pb2, provider_pb2_grpc
from hostnet.wire.errors import Code, HostnetError
from hostnet.wire.urn import Urn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable

    from google.protobuf.struct_pb2 import Struct
    from grpc.aio import ServicerContext

    from hostnet.hosts.connection import Settings
    from hostnet.lifecycle.redaction import Redactor
    from hostnet.resources.schema.kind import Kind

    Context = ServicerContext[Any, Any]
    AboutResource = (
        provider_pb2.CheckRequest
        | provider_pb2.DiffRequest
        | provider_pb2.CreateRequest
        | provider_pb2.UpdateRequest
        | provider_pb2.ReadRequest
        | provider_pb2.DeleteRequest
    )

Request = TypeVar("Request")
Response = TypeVar("Response")

# In the outputs of a resource that was applied in part: the engine calls Update for it as for any other.
_PARTIAL = "__partial"

_MODES = {0: "propose", 1: "enforce", 2: "disable"}


def rpc(
    method: Callable[[Servicer, Request], Awaitable[Response]],
) -> Callable[[Servicer, Request, Context], Awaitable[Response]]:
    """An RPC out of a method that raises: every error becomes the gRPC status that `failures` has for it."""

    @functools.wraps(method)
    async def answer(self: Servicer, request: Request, context: Context) -> Response:
        try:
            return await method(self, request)
        except Exception as error:  # noqa: BLE001 - to the engine an exception that leaves here means "state unknown"
            failure = self.blame(request, error)
        finally:
            await self.log.flush()
        return await self.fail(failure, context)

    return answer


class Servicer(provider_pb2_grpc.ResourceProviderServicer):
    """The provider `hostnet`.

    Args:
        delivery: Delivers lines to the engine's log.
        redact: Knows this process's secrets.
        make_pool: How to get the hosts' sessions once the settings are known.
        reconfigurable: Whether a later Configure may bring another configuration.
    """

    def __init__(
        self, delivery: GrpcDelivery, redact: Redactor, make_pool: MakePool, *, reconfigurable: bool = False
    ) -> None:
        self._delivery, self.log = delivery, EngineLog(delivery, redact)
        self._redact, self._reconfigurable = redact, reconfigurable
        self._configuration: object = None
        self.access = HostAccess(self.log, make_pool)
        self._do = Operations(self.access, self.log)

    @rpc
    async def Handshake(self, request: provider_pb2.ProviderHandshakeRequest) -> provider_pb2.ProviderHandshakeResponse:
        """Take the engine's address; answer what this provider supports."""
        self._delivery.connect(request.engine_address)
        return provider_pb2.ProviderHandshakeResponse(
            accept_secrets=True,
            accept_resources=True,
            accept_outputs=True,
            supports_autonaming_configuration=True,
            accepts_byte_string=True,
        )

    @rpc
    async def Attach(self, request: plugin_pb2.PluginAttach) -> Empty:
        """Take the address of an engine that did not start this process (PULUMI_DEBUG_PROVIDERS)."""
        self._delivery.connect(request.address)
        return Empty()

    @rpc
    async def GetPluginInfo(self, _: Empty) -> plugin_pb2.PluginInfo:
        """Hostnet's version."""
        return plugin_pb2.PluginInfo(version=hostnet.__version__)

    @rpc
    async def GetSchema(self, _: provider_pb2.GetSchemaRequest) -> provider_pb2.GetSchemaResponse:
        """The package's schema, as in schema.json."""
        return provider_pb2.GetSchemaResponse(schema=responses.schema_text())

    @rpc
    async def CheckConfig(self, request: provider_pb2.CheckRequest) -> provider_pb2.CheckResponse:
        """Every failure of the provider's configuration, which goes back as it came, in the engine's spelling."""
        news = self._decode(request.news)
        self._redact.learn(_credentials(news))
        checked = check_config(news.values)
        return provider_pb2.CheckResponse(
            inputs=request.news, failures=self._failures(checked.failures, news, PROVIDER.properties)
        )

    @rpc
    async def DiffConfig(self, request: provider_pb2.DiffRequest) -> provider_pb2.DiffResponse:
        """Whether a change of the configuration means another host, and so replaces the provider."""
        old = self._decode(request.old_inputs if request.HasField("old_inputs") else request.olds)
        difference = diff_config(old.values, self._decode(request.news).values)
        return responses.difference(difference, request.ignoreChanges)

    @rpc
    async def Configure(self, request: provider_pb2.ConfigureRequest) -> provider_pb2.ConfigureResponse:
        """Take the configuration; no host is reached yet."""
        args = self._decode(request.args)
        self._redact.learn(_credentials(args))
        failures = check_config(args.values).failures
        if failures:
            reason = "; ".join(f"{each.path}: {each.reason}" for each in failures)
            raise HostnetError(Code.INVALID, "invalid configuration", reason)
        default, settings = parse_config(args.values, os.environ)
        await self._configure(default, replace(settings, provider=request.name))
        return provider_pb2.ConfigureResponse(
            acceptSecrets=True,
            supportsPreview=True,
            acceptResources=True,
            acceptOutputs=True,
            supports_autonaming_configuration=True,
        )

    @rpc
    async def Check(self, request: provider_pb2.CheckRequest) -> provider_pb2.CheckResponse:
        """Every failure of a resource's inputs; autonames."""
        try:
            news, olds = self._decode(request.news), self._decode(request.olds)
        except MalformedError as error:
            return provider_pb2.CheckResponse(inputs=request.news, failures=[responses.malformed(error)])
        kind = _kind(request)
        self._do.declare(request.urn)
        checked: Checked = kind.check(news.values, olds.values or None, _autoname(request))
        if checked.failures:
            failures = self._failures(checked.failures, news, kind.properties)
            return provider_pb2.CheckResponse(inputs=request.news, failures=failures)
        marks = input_secrets(checked.inputs, news)
        inputs = encode_again(request.news, news, checked.inputs, marks, unknowns=True)
        return provider_pb2.CheckResponse(inputs=inputs)

    @rpc
    async def Diff(self, request: provider_pb2.DiffRequest) -> provider_pb2.DiffResponse:
        """What an update has to do, from the state alone."""
        old = self._state(request.id, request.old_inputs, request.olds)
        difference = self._do.diff(_subject(request), old, self._decode(request.news).values)
        return responses.difference(difference, request.ignoreChanges)

    @rpc
    async def Create(self, request: provider_pb2.CreateRequest) -> provider_pb2.CreateResponse:
        """Create a resource; in a preview, give the outputs as far as they are known."""
        inputs, subject = self._decode(request.properties), _subject(request)
        if request.preview:
            return provider_pb2.CreateResponse(properties=await self._preview(subject, inputs, None))
        made = await self._with_partial_state(inputs, self._do.create(subject, inputs.values))
        return provider_pb2.CreateResponse(id=made.id, properties=_outputs(made.outputs, inputs))

    @rpc
    async def Update(self, request: provider_pb2.UpdateRequest) -> provider_pb2.UpdateResponse:
        """Update a resource; in a preview, give the outputs as far as they are known."""
        inputs, subject = self._decode(request.news), _subject(request)
        old = self._state(request.id, request.old_inputs, request.olds)
        if request.preview:
            return provider_pb2.UpdateResponse(properties=await self._preview(subject, inputs, old))
        made = await self._with_partial_state(inputs, self._do.update(subject, inputs.values, old))
        return provider_pb2.UpdateResponse(properties=_outputs(made.outputs, inputs))

    @rpc
    async def Read(self, request: provider_pb2.ReadRequest) -> provider_pb2.ReadResponse:
        """What the host has: for a refresh, by the state; for an import or `get`, by the id."""
        inputs = self._decode(request.inputs)
        state = self._state(request.id, request.inputs, request.properties)
        # A program's `get` sends the state that it was given, twice; a refresh has outputs that are no inputs.
        refresh = bool(state.inputs) and state.inputs != state.outputs
        found = await self._do.read(_subject(request), state if refresh else None, inputs.values)
        if found is None:
            # No id: it is gone. No properties, not even empty ones: the engine (3.259) would import a resource that
            # does not exist.
            return provider_pb2.ReadResponse()
        return provider_pb2.ReadResponse(
            id=found.id,
            properties=_outputs(found.outputs, inputs),
            inputs=encode_again(request.inputs, inputs, found.inputs, input_secrets(found.inputs, inputs)),
        )

    @rpc
    async def Delete(self, request: provider_pb2.DeleteRequest) -> Empty:
        """Delete a resource; what is gone already is success."""
        old = self._state(request.id, request.old_inputs, request.properties)
        await self._do.delete(_subject(request), old)
        return Empty()

    @rpc
    async def Invoke(self, request: provider_pb2.InvokeRequest) -> provider_pb2.InvokeResponse:
        """Call a function."""
        arguments = self._decode(request.args)
        function = find_function(request.tok)
        failures = self._failures(function.check(arguments.values), arguments, function.inputs.properties)
        if failures:
            return provider_pb2.InvokeResponse(failures=failures)
        result = await call(self.access, function, arguments.values)
        marks = output_secrets(result, arguments)
        response = provider_pb2.InvokeResponse()
        # The field's name is a keyword of Python.
        getattr(response, "return").CopyFrom(encode(result, marks))
        return response

    async def List(
        self, request: provider_pb2.ListRequest, context: Context
    ) -> AsyncIterator[provider_pb2.ListResponse]:
        """The resources of a kind that hostnet's record on the host has: ids to import."""
        try:
            query = self._decode(request.query).values
            page, following = await list_page(self.access, request, query)
        except Exception as error:  # noqa: BLE001 - as in `rpc`
            await self.fail(error, context)
        for identifier, name in page:
            yield provider_pb2.ListResponse(result=provider_pb2.ListResponse.Result(id=identifier, name=name))
        if following:
            after = provider_pb2.ListResponse.Continuation(continuation_token=following)
            yield provider_pb2.ListResponse(continuation=after)

    @rpc
    async def Cancel(self, _: Empty) -> Empty:
        """Fail the requests that were not sent yet; let those that were go on to their end."""
        # The engine (3.259) sends it at each normal end as well, and then SIGINT. A plugin that ends before the answer
        # has "exited prematurely" to it.
        await self.access.cancel()
        return Empty()

    async def Parameterize(self, _: provider_pb2.ParameterizeRequest, context: Context) -> NoReturn:
        """Not implemented: the package has no parameters."""
        await _unimplemented("Parameterize", context)

    @rpc
    async def Construct(self, request: provider_pb2.ConstructRequest) -> provider_pb2.ConstructResponse:
        """Register the component MicroVmHost for a program of any language."""
        from hostnet.rpc.construct import construct  # noqa: PLC0415 - for programs with a component

        return await construct(request)

    async def Call(self, _: provider_pb2.CallRequest, context: Context) -> NoReturn:
        """Not implemented: hostnet's resources have no methods."""
        await _unimplemented("Call", context)

    async def GetMapping(self, _: provider_pb2.GetMappingRequest, context: Context) -> NoReturn:
        """Not implemented: there is no Terraform provider to convert from."""
        await _unimplemented("GetMapping", context)

    async def GetMappings(self, _: provider_pb2.GetMappingsRequest, context: Context) -> NoReturn:
        """Not implemented: there is no Terraform provider to convert from."""
        await _unimplemented("GetMappings", context)

    def blame(self, request: Any, error: Exception) -> Exception:
        """The error of a request; where its inputs are not what Check lets pass, that is the error.

        The engine checks all inputs before. Another caller may not, and what is made of them then is no bug.
        """
        if isinstance(error, (HostnetError, _PartialStatusError)):
            return error
        if isinstance(error, RecursionError):
            return HostnetError(Code.INVALID, "cannot read the request", "a value is nested too deeply")
        for name in ("properties", "news", "old_inputs", "inputs"):
            with contextlib.suppress(Exception):
                inputs = self._decode(getattr(request, name))
                if has_unknown(inputs.values):
                    return HostnetError(Code.INVALID, "invalid inputs", "the value of an input is not known")
                failures = _kind(request).check(inputs.values, inputs.values, Autoname("", b"")).failures
                if inputs.values and failures:
                    reason = "; ".join(f"{each.path}: {each.reason}" for each in failures)
                    return HostnetError(Code.INVALID, "invalid inputs", reason)
        return error

    async def fail(self, error: Exception, context: Context) -> NoReturn:
        """End an RPC with the status for the error; no secret is in its text."""
        if isinstance(error, _PartialStatusError):
            reason = self._redact(error.reason)
            details = init_failed(error.id, error.properties, error.inputs, [reason])
            await context.abort(STATUS_OF[Code.PARTIAL], reason, ((DETAILS_KEY, details),))
        code, text = status_of(error)
        if code is StatusCode.INTERNAL:
            sys.stderr.write(self._redact("".join(traceback.format_exception(error))))
        await context.abort(code, self._redact(text))

    async def _configure(self, default: dict[str, Any] | None, settings: Settings) -> None:
        """Take the configuration. An engine's plugin has one, which a second Configure does not change.

        Raises:
            HostnetError: It has another one.
        """
        if not self._reconfigurable and self._configuration is not None:
            if self._configuration == (default, settings):
                return
            why = "it is configured, and this configuration is another one"
            fix = "Start another plugin for it: Pulumi does, for each provider of a program"
            raise HostnetError(Code.INVALID, "cannot configure the plugin", why, fix)
        self._do.begin()
        await self.access.configure(default, settings)
        self._configuration = (default, settings)

    def _failures(
        self, found: Iterable[Failure], given: Given, declared: Collection[str]
    ) -> list[provider_pb2.CheckFailure]:
        shown = check_failures(found, given, declared, self._redact)
        return [provider_pb2.CheckFailure(property=each.property, reason=each.reason) for each in shown]

    def _decode(self, struct: Struct) -> Given:
        decoded = decode(struct)
        self._redact.learn(decoded.texts)
        return decoded

    def _state(self, identifier: str, inputs: Struct, outputs: Struct) -> State:
        """What the engine knows of a resource."""
        values = self._decode(outputs).values
        partial = values.pop(_PARTIAL, False)
        return State(identifier, self._decode(inputs).values, values, partial=bool(partial))

    async def _preview(self, subject: Subject, inputs: Given, old: State | None) -> Struct:
        planned = await self._do.preview(subject, inputs.values, old)
        return _outputs(planned, inputs, unknowns=True)

    async def _with_partial_state(self, inputs: Given, doing: Awaitable[State]) -> State:
        """Wait for a create or an update; where it was applied in part, encode the state that the engine must keep."""
        try:
            return await doing
        except PartialError as error:
            kept = encode(error.state.inputs, input_secrets(error.state.inputs, inputs))
            properties = _outputs(error.state.outputs, inputs)
            properties.fields[_PARTIAL].bool_value = True
            raise _PartialStatusError(error.state.id, properties, kept, error.reason) from error


class _PartialStatusError(Exception):
    """A `PartialError` with its state encoded."""

    def __init__(self, identifier: str, properties: Struct, inputs: Struct, reason: str) -> None:
        super().__init__(reason)
        self.id, self.properties, self.inputs, self.reason = identifier, properties, inputs, reason


def _kind(request: AboutResource) -> Kind[Any]:
    urn = Urn.parse(request.urn)
    if not urn.name or not urn.type:
        raise HostnetError(
            Code.INVALID, "cannot read the request", f"{request.urn[:80]!r} is not the URN of a resource"
        )
    token = request.type or urn.type
    if token not in KINDS:
        known = ", ".join(KINDS)
        raise HostnetError(Code.INVALID, f"unknown resource type {token}", f"hostnet has {known}")
    return KINDS[token]


def _subject(request: AboutResource) -> Subject:
    return Subject(_kind(request), request.urn, getattr(request, "id", ""))


def _autoname(request: provider_pb2.CheckRequest) -> Autoname:
    name = request.name or Urn.parse(request.urn).name
    # The engine (3.259) sends it only where the user configured autonaming.
    if not request.HasField("autonaming"):
        return Autoname(name, request.randomSeed)
    wanted = request.autonaming
    return Autoname(name, request.randomSeed, wanted.proposed_name or None, _MODES[wanted.mode])


def _outputs(outputs: dict[str, Any], inputs: Given, *, unknowns: bool = False) -> Struct:
    """Outputs with their secrets marked. `connection` is not among them: it is not a property of the host."""
    shown = {name: value for name, value in outputs.items() if name != "connection"}
    return encode(shown, output_secrets(shown, inputs), unknowns=unknowns)


def _credentials(config: Given) -> set[str]:
    """The secrets in the provider's connection, which arrives as JSON text."""
    given = Given({"connection": decode_config(config.values).get("connection")})
    given.mark_credentials()
    return given.texts


async def _unimplemented(name: str, context: Context) -> NoReturn:
    await context.abort(StatusCode.UNIMPLEMENTED, f"hostnet does not implement {name}")
