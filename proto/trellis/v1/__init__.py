"""The protobuf schema, version 1, and its generated stubs: import the module you need, for example
`trellis.v1.transaction_pb2`. Message modules never import grpc; only `*_pb2_grpc` modules do.

`descriptor.binpb` beside them is the compiled schema with its comments, for tools when reflection is off.
"""
